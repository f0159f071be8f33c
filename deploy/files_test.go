package deploy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ztunnel/dashboards/promqlcheck"

	gocmp "github.com/google/go-cmp/cmp"
)

func read(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// The image holds what `make build` makes, where Istio's image has it, and runs
// as whom the chart's capabilities are for.
func TestDockerfile(t *testing.T) {
	const binary = "/usr/local/bin/ztunnel"
	var got [][]string
	for line := range strings.Lines(read(t, "Dockerfile")) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			got = append(got, strings.Fields(line))
		}
	}
	want := [][]string{
		{"ARG", "BASE=gcr.io/distroless/static-debian12:latest"}, // not :nonroot, which moves the working directory
		{"FROM", "${BASE}"},
		{"WORKDIR", "/"},
		{"COPY", "ztunnel", binary},
		{"USER", "0"},
		{"ENTRYPOINT", `["` + binary + `"]`},
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("instructions (-want +got):\n%s", diff)
	}
	made := regexp.MustCompile(`(?m)^\tCGO_ENABLED=0 go build -trimpath .* -o bin/ztunnel ./cmd/ztunnel$`)
	if !made.MatchString(read(t, "../Makefile")) {
		t.Error("make build does not make a static bin/ztunnel with -trimpath")
	}
}

func TestReadmeQueries(t *testing.T) {
	rules := promqlcheck.Rules{TargetLabels: []string{"app", "pod"}}
	checked := 0
	for _, block := range blocks(t, "promql") {
		for query := range strings.Lines(block) {
			_, errs := rules.Check(strings.TrimSpace(query))
			for _, err := range errs {
				t.Errorf("%s: %v", query, err)
			}
			checked++
		}
	}
	if checked != 3 {
		t.Errorf("README.md has %d queries, want the three of its step 6", checked)
	}
}

// blocks are the blocks of README.md in a language.
func blocks(t *testing.T, language string) []string {
	t.Helper()
	var all []string
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(read(t, "README.md"), -1) {
		all = append(all, m[1])
	}
	return all
}

// The paths that README.md names are there, but for the one that git ignores.
func TestReadmePaths(t *testing.T) {
	const rendered = "deploy/base/ztunnel.yaml"
	paths := regexp.MustCompile(`\b(?:deploy|alerts|dashboards)/[\w./-]*\w`).FindAllString(read(t, "README.md"), -1)
	if !slices.Contains(paths, rendered) || !slices.Contains(paths, "deploy/overlays/mesh") || !slices.Contains(paths, "deploy/overlays/migrate") {
		t.Errorf("README.md names the paths %q, want the rendered chart and both overlays", paths)
	}
	for _, path := range paths {
		if path == rendered {
			continue
		}
		if _, err := os.Stat(filepath.Join("..", path)); err != nil {
			t.Errorf("README.md names %s: %v", path, err)
		}
	}
	if name := strings.TrimPrefix(rendered, "deploy"); !slices.Contains(strings.Split(read(t, ".gitignore"), "\n"), name) {
		t.Errorf("git does not ignore %s", name)
	}
}
