package alerts

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ztunnel/dashboards/promqlcheck"
	"ztunnel/proxy/needs"

	"go.yaml.in/yaml/v3"
)

const (
	rulesFile = "ztunnel.yaml"
	testsFile = "ztunnel_test.yaml"
	booksFile = "RUNBOOKS.md"
)

// The parts of promtool's files that are looked at.
type (
	rulesYAML struct {
		Groups []struct {
			Name  string
			Rules []alert
		}
	}
	alert struct {
		Alert, Expr, For    string
		Labels, Annotations map[string]string
	}
	testsYAML struct {
		Tests []struct {
			Name           string
			AlertRuleTests []struct {
				Alert    string `yaml:"alertname"`
				Expected []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
)

// checker knows the labels that Istio's scrape configuration adds.
var checker = promqlcheck.Rules{TargetLabels: []string{"app", "pod", "node", "namespace", "instance", "job"}}

func parse(t *testing.T, name string, into any) {
	t.Helper()
	content, err := os.ReadFile(name)
	if err == nil {
		err = yaml.Unmarshal(content, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func rules(t *testing.T) []alert {
	t.Helper()
	var file rulesYAML
	parse(t, rulesFile, &file)
	var all []alert
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) < 5 {
		t.Fatalf("%s has %d rules, want all", rulesFile, len(all))
	}
	return all
}

// runbooks returns the sections by their heading.
func runbooks(t *testing.T) map[string]string {
	t.Helper()
	content, err := os.ReadFile(booksFile)
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for _, section := range strings.Split(string(content), "\n## ")[1:] {
		heading, text, _ := strings.Cut(section, "\n")
		sections[heading] = text
	}
	return sections
}

func TestRules(t *testing.T) {
	usedLabel := regexp.MustCompile(`\$labels\.(\w+)`)
	for _, a := range rules(t) {
		e, errs := checker.Check(a.Expr)
		for _, err := range errs {
			t.Errorf("%s: %v", a.Alert, err)
		}
		for _, s := range e.Selectors {
			if !slices.Contains(s.Matchers, promqlcheck.Matcher{Label: "app", Operator: "=", Value: "ztunnel"}) {
				t.Errorf(`%s: %s is not limited to app="ztunnel"`, a.Alert, s.Metric)
			}
		}
		if !strings.HasPrefix(a.Alert, "Ztunnel") || a.For == "" {
			t.Errorf("alert %q has for %q, want a name that begins with Ztunnel, and a time", a.Alert, a.For)
		}
		if severity := a.Labels["severity"]; severity != "warning" && severity != "critical" {
			t.Errorf("%s has the severity %q, want warning or critical", a.Alert, severity)
		}
		for _, name := range []string{"summary", "description"} {
			text := a.Annotations[name]
			if !strings.HasSuffix(text, ".") {
				t.Errorf("%s has the %s %q, want a sentence", a.Alert, name, text)
			}
			for _, m := range usedLabel.FindAllStringSubmatch(text, -1) {
				if !slices.Contains(resultLabels(e), m[1]) {
					t.Errorf("%s: its %s uses the label %s, which the result does not have", a.Alert, name, m[1])
				}
			}
		}
	}
}

// resultLabels are the labels of what a rule returns: the target's are gone
// after an aggregation.
func resultLabels(e *promqlcheck.Expr) []string {
	if len(e.Groupings) > 0 {
		return e.Labels()
	}
	return append(e.Labels(), checker.TargetLabels...)
}

func TestRunbooks(t *testing.T) {
	sections := runbooks(t)
	alerts := map[string]bool{}
	for _, a := range rules(t) {
		alerts[a.Alert] = true
		if got, want := a.Annotations["runbook_url"], "alerts/"+booksFile+"#"+strings.ToLower(a.Alert); got != want {
			t.Errorf("%s has the runbook %q, want %q", a.Alert, got, want)
		}
		text, ok := sections[a.Alert]
		if !ok {
			t.Errorf("%s has no section in %s", a.Alert, booksFile)
			continue
		}
		at := -1
		for _, part := range []string{"Meaning", "Impact", "How to look", "Likely causes", "What to do"} {
			next := strings.Index(text, "**"+part+".**")
			if next <= at {
				t.Errorf("the runbook of %s lacks %q, or has it in another order", a.Alert, part)
			}
			at = next
		}
		for _, fence := range []string{"```promql\n", "```sh\n"} {
			if !strings.Contains(text, fence) {
				t.Errorf("the runbook of %s has no block %q", a.Alert, fence[:len(fence)-1])
			}
		}
	}
	for heading := range sections {
		if !alerts[heading] {
			t.Errorf("%s has a section %q, which no alert is named", booksFile, heading)
		}
	}
}

// queries are those of a runbook, one a line.
func queries(section string) []string {
	var all []string
	for _, m := range regexp.MustCompile("(?s)```promql\n(.*?)```").FindAllStringSubmatch(section, -1) {
		all = append(all, strings.Split(strings.TrimSpace(m[1]), "\n")...)
	}
	return all
}

func TestRunbookQueries(t *testing.T) {
	type rule struct {
		Record string `yaml:"record"`
		Expr   string `yaml:"expr"`
	}
	var all []rule
	sections := runbooks(t)
	for _, heading := range slices.Sorted(maps.Keys(sections)) {
		section := queries(sections[heading])
		if len(section) == 0 {
			t.Errorf("the runbook of %s has no query", heading)
		}
		for _, query := range section {
			if _, errs := checker.Check(query); len(errs) > 0 {
				t.Errorf("%s: %s: %v", heading, query, errs)
			}
			all = append(all, rule{fmt.Sprintf("query:%d", len(all)), query})
		}
	}
	content, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "queries", "rules": all}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "queries.yaml")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", file)
}

// Every rule fires in one test and is looked at without firing in another.
func TestEveryAlertIsTested(t *testing.T) {
	var file testsYAML
	parse(t, testsFile, &file)
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, test := range file.Tests {
		fired, looked := map[string]bool{}, map[string]bool{}
		for _, c := range test.AlertRuleTests {
			looked[c.Alert] = true
			fired[c.Alert] = fired[c.Alert] || len(c.Expected) > 0
		}
		for name := range looked {
			fires[name] = fires[name] || fired[name]
			silent[name] = silent[name] || !fired[name]
		}
	}
	names := map[string]bool{}
	for _, a := range rules(t) {
		names[a.Alert] = true
		if !fires[a.Alert] {
			t.Errorf("%s fires in no test", a.Alert)
		}
		if !silent[a.Alert] {
			t.Errorf("%s has no test in which it stays silent", a.Alert)
		}
	}
	for name := range fires {
		if !names[name] {
			t.Errorf("%s tests %s, which is no alert", testsFile, name)
		}
	}
}

// promtool runs promtool.
func promtool(t *testing.T, arguments ...string) {
	t.Helper()
	if output, err := exec.CommandContext(t.Context(), needs.Promtool(t), arguments...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(arguments, " "), err, output)
	}
}
