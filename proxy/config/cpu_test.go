package config

import (
	"fmt"
	"testing"
)

func TestParseQuantity(t *testing.T) {
	for text, want := range map[string]int{
		"0": 0, "2": 2, "1.5": 2, "500m": 1, "2500m": 3, "2000m": 2, "1m": 1, "0.1": 1, "+3": 3, "1k": 1000, "1Ki": 1024, "1e1": 10, "15E-1": 2, "3000000u": 3, "1n": 1, "65536": 65536,
	} {
		if got, err := parseQuantity(text); err != nil || got != want {
			t.Errorf("parseQuantity(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "m", "-1", "inf", "NaN", "1 ", "1mm", "1e99", "1e", "65537", "1E", "1Mi", "0x1", "1e-9999999999"} {
		if got, err := parseQuantity(text); err == nil {
			t.Errorf("parseQuantity(%q) = %d, want an error", text, got)
		}
	}
}

// A quantity is a whole number within bounds, or an error; a thousandth of it
// written in another way is the same.
func FuzzParseQuantity(f *testing.F) {
	for _, seed := range []string{"2", "1.5", "500m", "1e3", "-1", "1Ei", "0.0000000001", "1e-30", "9999999999999999999999"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseQuantity(text)
		if err != nil {
			return
		}
		if got < 0 || got > maxCPUs {
			t.Fatalf("parseQuantity(%q) = %d, want 0 to %d", text, got, maxCPUs)
		}
		if again, err := parseQuantity(fmt.Sprintf("%d000m", got)); err != nil || again != got {
			t.Fatalf("parseQuantity(%d000m) = %d, %v, want %d", got, again, err, got)
		}
	})
}

// Whatever is wished for, there is at least one thread.
func FuzzParseThreads(f *testing.F) {
	for _, seed := range []string{"0", "4", "50%", "100%", "0.001%", "%", "-1%", "1e2%"} {
		f.Add(seed, 8)
	}
	f.Fuzz(func(t *testing.T, text string, cpus int) {
		cpus = cpus & 0xfff
		wish, err := parseThreads(text)
		if err != nil {
			return
		}
		if got := wish.of(cpus); got < 1 || got > maxCPUs || wish.percent != nil && got > max(1, cpus) {
			t.Fatalf("parseThreads(%q).of(%d) = %d", text, cpus, got)
		}
	})
}

func TestThreads(t *testing.T) {
	for _, tc := range []struct {
		cpus int
		env  []string
		want int
	}{
		{8, []string{"ZTUNNEL_WORKER_THREADS=4"}, 4},
		{8, []string{"ZTUNNEL_WORKER_THREADS=50%"}, 4},
		{16, []string{"ZTUNNEL_WORKER_THREADS=30%"}, 5},
		{4, []string{"ZTUNNEL_WORKER_THREADS=10%"}, 1},
		{3, []string{"ZTUNNEL_WORKER_THREADS=100%"}, 3},
		{8, []string{"ZTUNNEL_WORKER_THREADS=0", "ZTUNNEL_CPU_LIMIT=6"}, 6},
		{8, []string{"ZTUNNEL_WORKER_THREADS=0"}, 8},
		{8, []string{"PROXY_CONFIG=concurrency: 0", "ZTUNNEL_CPU_LIMIT=6"}, 6},
		{8, []string{"PROXY_CONFIG=concurrency: 5"}, 5},
		{8, []string{"PROXY_CONFIG=concurrency: 5", "ZTUNNEL_WORKER_THREADS=1"}, 1},
		{8, []string{"ZTUNNEL_WORKER_THREADS=0", "ZTUNNEL_RESOURCE_CPU_LIMIT=3", "ZTUNNEL_CPU_LIMIT=12"}, 3},
		{8, []string{"ZTUNNEL_RESOURCE_CPU_LIMIT=16"}, 16},
		{8, []string{"ZTUNNEL_RESOURCE_CPU_LIMIT=1"}, 1},
		{8, []string{"ZTUNNEL_RESOURCE_CPU_LIMIT=500m"}, 1},
		{8, []string{"ZTUNNEL_RESOURCE_CPU_LIMIT=2500m"}, 3},
		{8, []string{"ZTUNNEL_RESOURCE_CPU_LIMIT=1.5"}, 2},
		{8, []string{"ZTUNNEL_CPU_LIMIT=32"}, 8},
		{8, []string{"ZTUNNEL_CPU_LIMIT=0"}, 2},
		{40, nil, 10},
		{9, nil, 3},
		{1, nil, 2},
		{4, []string{"ZTUNNEL_RESOURCE_CPU_REQUEST=8"}, 8},
		{4, []string{"ZTUNNEL_RESOURCE_CPU_REQUEST=1"}, 2},
		{4, []string{"ZTUNNEL_RESOURCE_CPU_REQUEST=0"}, 2},
		{4, []string{"ZTUNNEL_RESOURCE_CPU_LIMIT=16", "ZTUNNEL_RESOURCE_CPU_REQUEST=4"}, 16},
		{4, []string{"ZTUNNEL_RESOURCE_CPU_LIMIT=4", "ZTUNNEL_RESOURCE_CPU_REQUEST=8"}, 8},
	} {
		c, err := load(tc.env, nil, t.TempDir(), machine(t, tc.cpus))
		if err != nil || c.WorkerThreads != tc.want {
			t.Errorf("load(%q) with %d CPUs: WorkerThreads = %v, %v, want %d", tc.env, tc.cpus, c, err, tc.want)
		}
	}
}
