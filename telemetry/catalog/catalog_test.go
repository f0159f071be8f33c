package catalog

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden file")

// The catalog is what the golden file says, so that every change to it shows
// in a review.
func TestGolden(t *testing.T) {
	var b strings.Builder
	for _, m := range All() {
		stability := "unstable"
		if m.Stable {
			stability = "stable"
		}
		unit := m.Unit
		if unit == "" {
			unit = "-"
		}
		fmt.Fprintf(&b, "%s\n  %s, unit %s, %s\n  {%s}\n  %s\n", m.Name, m.Type, unit, stability, strings.Join(m.Labels, ","), m.HelpLine())
	}
	const path = "testdata/catalog.golden"
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(b.String(), "\n")); diff != "" {
		t.Errorf("catalog, want (-) and got (+); -update rewrites it:\n%s", diff)
	}
}

// forbidden are the labels of the scraper's targets, which exported ones would
// override.
var forbidden = []string{"app", "pod", "namespace", "node", "instance", "job", "container", "service", "le", "quantile"}

func TestRules(t *testing.T) {
	name := regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	seen := map[string]bool{}
	declared := map[string]bool{}
	for _, m := range All() {
		if seen[m.Name] {
			t.Errorf("%s is listed twice", m.Name)
		}
		seen[m.Name] = true
		family := strings.TrimSuffix(m.Name, "_total")
		if declared[family] {
			t.Errorf("%s clashes with another family in OpenMetrics", m.Name)
		}
		declared[family] = true
		if !name.MatchString(m.Name) {
			t.Errorf("%s is no name", m.Name)
		}
		if counter := m.Type == Counter; counter != strings.HasSuffix(m.Name, "_total") {
			t.Errorf("%s is a %s, which its name does not say", m.Name, m.Type)
		}
		for unit, suffix := range map[string]string{"s": "_seconds", "By": "_bytes"} {
			if (m.Unit == unit) != strings.HasSuffix(family, suffix) {
				t.Errorf("%s has the unit %q, which its name does not say", m.Name, m.Unit)
			}
		}
		if m.Help == "" || strings.HasSuffix(m.Help, ".") || strings.Contains(m.Help, "unstable") {
			t.Errorf("%s has the help %q, want a text without full stop and without a word about stability", m.Name, m.Help)
		}
		if strings.Contains(m.HelpLine(), "unstable") == m.Stable {
			t.Errorf("HELP of %s is %q, stable %v", m.Name, m.HelpLine(), m.Stable)
		}
		for i, l := range m.Labels {
			if !name.MatchString(l) || slices.Contains(forbidden, l) || slices.Contains(m.Labels[:i], l) {
				t.Errorf("%s has the label %s", m.Name, l)
			}
		}
	}
}

func TestTrafficLabels(t *testing.T) {
	if n := len(TrafficLabels()); n != 27 {
		t.Errorf("%d traffic labels, want 27", n)
	}
	active, _ := Find(Active)
	if len(active.Labels) != 26 || slices.Contains(active.Labels, ResponseFlags) {
		t.Errorf("active has the labels %v, want all but %s", active.Labels, ResponseFlags)
	}
}

func TestHelp(t *testing.T) {
	if got := Help(Build); got != "Istio component build info" {
		t.Errorf("Help(%s) = %q", Build, got)
	}
	if got := Help("no_such_metric"); got != "" {
		t.Errorf("Help of an unknown metric = %q, want none", got)
	}
	if _, ok := Find("no_such_metric"); ok {
		t.Error("Find of an unknown metric succeeded")
	}
}
