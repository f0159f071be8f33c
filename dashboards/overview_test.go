package dashboards

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ztunnel/dashboards/promqlcheck"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the dashboards' JSON from their sources")

const overviewFile = "ztunnel-overview.json"

// What the JSON is for Grafana, as far as the rules look at it. It is read from
// the file: that is what people import.
type (
	dashboard struct {
		UID, Title, Description string
		Templating              struct{ List []choice }
		Panels                  []panel
	}
	choice struct {
		Name, Type string
		Datasource datasource
		Query      any
	}
	panel struct {
		ID                       int
		Type, Title, Description string
		Datasource               datasource
		GridPos                  struct{ X, Y, W, H int }
		Targets                  []target
		FieldConfig              struct{ Defaults struct{ Unit string } }
	}
	target struct {
		RefID, Expr, LegendFormat, Format string
		Datasource                        datasource
	}
	datasource struct{ Type, UID string }
)

// chosen is the only data source that anything may read.
var chosen = datasource{"prometheus", "${datasource}"}

func load(t *testing.T) dashboard {
	t.Helper()
	content, err := os.ReadFile(overviewFile)
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(content, &d); err != nil {
		t.Fatalf("%s: %v", overviewFile, err)
	}
	return d
}

// shown are the panels that are no headings.
func (d dashboard) shown() []panel {
	return slices.DeleteFunc(slices.Clone(d.Panels), func(p panel) bool { return p.Type == "row" })
}

func TestGolden(t *testing.T) {
	got, err := Overview().JSON()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(overviewFile, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(overviewFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(got), "\n")); diff != "" {
		t.Errorf("%s, want (-) and got (+); make dashboards rewrites it:\n%s", overviewFile, diff)
	}
}

func TestPanels(t *testing.T) {
	d := load(t)
	const official = "12c58766acc81a1c835dd5059eaf2741"
	if d.UID == "" || d.UID == official || d.Title != "ztunnel overview" || d.Description == "" {
		t.Errorf("dashboard has uid %q, title %q, description %q, want all, and a uid of its own", d.UID, d.Title, d.Description)
	}
	if len(d.shown()) < 30 {
		t.Fatalf("dashboard has %d panels, want all", len(d.shown()))
	}
	ids, titles := map[int]bool{}, map[string]bool{}
	for _, p := range d.Panels {
		if p.Title == "" || titles[p.Title] {
			t.Errorf("panel %d has the title %q, want one of its own", p.ID, p.Title)
		}
		if p.ID == 0 || ids[p.ID] {
			t.Errorf("%s: id %d, want one of its own", p.Title, p.ID)
		}
		ids[p.ID], titles[p.Title] = true, true
	}
	for _, p := range d.shown() {
		if len(p.Description) < 20 || !strings.HasSuffix(p.Description, ".") {
			t.Errorf("%s: description %q, want sentences", p.Title, p.Description)
		}
		if p.FieldConfig.Defaults.Unit == "" {
			t.Errorf("%s has no unit", p.Title)
		}
		if p.Datasource != chosen {
			t.Errorf("%s reads the data source %v, want %v", p.Title, p.Datasource, chosen)
		}
		if len(p.Targets) == 0 {
			t.Errorf("%s has no query", p.Title)
		}
		refs := map[string]bool{}
		for _, q := range p.Targets {
			if q.Datasource != chosen {
				t.Errorf("%s: query %s reads the data source %v, want %v", p.Title, q.RefID, q.Datasource, chosen)
			}
			if refs[q.RefID] {
				t.Errorf("%s has two queries %s", p.Title, q.RefID)
			}
			refs[q.RefID] = true
			if p.Type == "timeseries" && q.LegendFormat == "" {
				t.Errorf("%s: query %s has no legend", p.Title, q.RefID)
			}
		}
	}
}

func TestLayout(t *testing.T) {
	taken := map[[2]int]string{}
	for _, p := range load(t).Panels {
		g := p.GridPos
		if g.W < 2 || g.H < 1 || g.X < 0 || g.X+g.W > columns {
			t.Errorf("%s: position %+v, want it within %d columns", p.Title, g, columns)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("%s lies upon %s", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
}

// rules know the labels that a scrape adds.
var rules = promqlcheck.Rules{TargetLabels: []string{"pod", "node"}}

var placeholder = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)

func TestQueries(t *testing.T) {
	for _, p := range load(t).shown() {
		for _, q := range p.Targets {
			e, errs := rules.Check(q.Expr)
			for _, err := range errs {
				t.Errorf("%s: %v", p.Title, err)
			}
			labels := append(e.Labels(), rules.TargetLabels...)
			for _, m := range placeholder.FindAllStringSubmatch(q.LegendFormat, -1) {
				if !slices.Contains(labels, m[1]) {
					t.Errorf("%s: the legend %q uses %s, which the result does not have: %s", p.Title, q.LegendFormat, m[1], q.Expr)
				}
			}
			for _, s := range e.Selectors {
				if !slices.Contains(s.Matchers, promqlcheck.Matcher{Label: "pod", Operator: "=~", Value: "$pod"}) {
					t.Errorf("%s: %s is not limited to the chosen pods", p.Title, s.Metric)
				}
				switch {
				case s.Function == "rate" && s.Range != "$__rate_interval":
					t.Errorf("%s: rate over %s, want $__rate_interval", p.Title, s.Range)
				case s.Range != "" && s.Range != "$__rate_interval" && s.Range != "$__range":
					t.Errorf("%s: range %s, want one of the dashboard", p.Title, s.Range)
				}
			}
		}
	}
}

// A table shows its labels in columns of their own, so that they must be in its
// results.
func TestTables(t *testing.T) {
	for _, row := range Overview().Rows {
		for _, p := range row.Panels {
			table, ok := p.(*Table)
			if !ok {
				continue
			}
			headings := map[string]bool{}
			for _, q := range table.Queries {
				headings[q.Legend] = true
				e, _ := rules.Check(q.Expr)
				for _, c := range table.Labels {
					if !slices.Contains(e.Labels(), c.Label) {
						t.Errorf("%s: column %s is not in the result of %s", table.Title, c.Label, q.Expr)
					}
				}
			}
			if !headings[table.SortBy] {
				t.Errorf("%s is sorted by %q, which is no column of values", table.Title, table.SortBy)
			}
		}
	}
}

func TestVariables(t *testing.T) {
	values := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)
	d := load(t)
	var queries strings.Builder
	for _, p := range d.shown() {
		for _, q := range p.Targets {
			queries.WriteString(q.Expr)
		}
	}
	list := d.Templating.List
	for _, v := range list {
		fmt.Fprint(&queries, v.Query)
	}
	if len(list) < 3 || list[0].Type != "datasource" || list[0].Name != "datasource" || list[0].Query != "prometheus" {
		t.Fatalf("variables = %+v, want the data source first", list)
	}
	for _, v := range list[1:] {
		if v.Datasource != chosen {
			t.Errorf("variable %s reads the data source %v, want %v", v.Name, v.Datasource, chosen)
		}
		if !strings.Contains(queries.String(), `"$`+v.Name+`"`) {
			t.Errorf("nothing uses the variable %s", v.Name)
		}
		query, _ := v.Query.(map[string]any)
		text, _ := query["query"].(string)
		m := values.FindStringSubmatch(text)
		if m == nil {
			t.Errorf("variable %s has the query %q, want label_values(selector, label)", v.Name, text)
			continue
		}
		if _, errs := rules.Check(m[1]); len(errs) > 0 {
			t.Errorf("variable %s: %v", v.Name, errs)
		}
		if !slices.Contains(rules.TargetLabels, m[2]) {
			t.Errorf("variable %s lists %s, which no scrape adds", v.Name, m[2])
		}
	}
}
