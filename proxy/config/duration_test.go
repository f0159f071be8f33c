package config

import (
	"testing"
	"time"
)

func TestParseDuration(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"0": 0, "60": time.Minute, "1.5": 1500 * time.Millisecond, " 7 ": 7 * time.Second, "+5s": 5 * time.Second,
		"90s": 90 * time.Second, "1h30m": 90 * time.Minute, "1h 30m": 90 * time.Minute, "1h+30m": 90 * time.Minute, "1h + 30": time.Hour + 30*time.Second,
		"1d": day, "2w": 14 * day, "1mon": 30 * day, "1y": 365 * day, "1 Day": day, "2DAYS": 2 * day, "3 hrs": 3 * time.Hour, "5 minutes": 5 * time.Minute,
		"10ms": 10 * time.Millisecond, "1us": time.Microsecond, "1µs": time.Microsecond, "1μs": time.Microsecond, "3ns": 3, "0.9ns": 0, "1.s": time.Second, ".5s": 500 * time.Millisecond,
		"1m*60": time.Hour, "60*60": time.Hour, "2 * 3h": 6 * time.Hour, "1d*2+1h": 49 * time.Hour, "1M": time.Minute,
		"9223372036.854775806s": 1<<63 - 2,
	} {
		if got, err := parseDuration(text); err != nil || got != want {
			t.Errorf("parseDuration(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", " ", "-1s", "s", "1x", "1h-1m", "1s*1s", "1*", "*1", "1+", "+", "1..2", ".", "1e3", "0x10", "∞", "300y", "1s,2s", "1h\n",
		"99999999999999999999999999999999999999999999999999999999999999999999",
	} {
		if got, err := parseDuration(text); err == nil {
			t.Errorf("parseDuration(%q) = %v, want an error", text, got)
		}
	}
}

// Whatever comes, a duration is not negative, and what Go takes means the same
// here.
func FuzzParseDuration(f *testing.F) {
	for _, seed := range []string{"1h30m", "60*60", "1d + 2 hours", "1.5", "-1s", "µs", "9223372036854775807ns", "1y*1000", ".", "+5s"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseDuration(text)
		if err != nil {
			got = 0
		}
		if got < 0 {
			t.Fatalf("parseDuration(%q) = %v, want at least 0", text, got)
		}
		if want, goErr := time.ParseDuration(text); goErr == nil && want >= 0 && len(text) <= maxNumeric && want < 1<<62 && text[0] != '-' {
			// Go rounds each term, we cut the sum: a nanosecond per term.
			if err != nil || (got-want).Abs() > time.Duration(len(text)) {
				t.Fatalf("parseDuration(%q) = %v, %v, want %v", text, got, err, want)
			}
		}
		if err == nil && got > 0 {
			if again, err := parseDuration(got.String()); err != nil || again != got {
				t.Fatalf("parseDuration(%q) = %v, %v, want %v", got.String(), again, err, got)
			}
		}
	})
}
