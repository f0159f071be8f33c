package main_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

// The rules of the architecture, as tests. Package main is the one that may
// know every other, so they stand here.

const (
	module = "ztunnel"
	top    = "../.." // of the repository

	mostFileLines     = 500
	mostFunctionLines = 80
)

// record is what a package may use to tell of connections.
const record = "telemetry/connection"

// mayImport says which packages of this module a package may import beside
// itself. A name ending in /... stands for all below it; a package below a row
// without a row of its own (a test kit) may import its parent and what that
// may. Test files are free. depguard in .golangci.yml has the same table with
// the reasons.
var mayImport = []struct {
	name    string
	imports []string
}{
	{"cmd/...", []string{"..."}},
	{"proxy", []string{"proxy/...", record, "telemetry/catalog", "telemetry/surface"}}, // the assembly: it hands the surfaces to inbound
	{"proxy/config", nil},
	{"proxy/spiffe", nil},
	{"proxy/api/...", nil},
	{"proxy/workload", []string{"proxy/spiffe", "proxy/api/workloadapi", record}},
	{"proxy/rbac", []string{"proxy/spiffe", "proxy/api/securityapi"}},
	{"proxy/istiod", []string{"proxy/relay"}},
	{"proxy/xds", []string{"proxy/istiod", "proxy/api/discoveryapi", record}},
	{"proxy/discovery", []string{"proxy/xds", "proxy/workload", "proxy/rbac", "proxy/spiffe", "proxy/api/workloadapi", "proxy/api/securityapi", record}},
	{"proxy/identity", []string{"proxy/spiffe", "proxy/istiod", "proxy/api/caapi", record}},
	{"proxy/socket", nil},
	{"proxy/relay", []string{"proxy/socket"}},
	{"proxy/aesgcm", nil},
	{"proxy/tls13", []string{"proxy/aesgcm"}},
	{"proxy/hbone", []string{"proxy/spiffe", "proxy/relay", "proxy/socket", "proxy/tls13", record}},
	{"proxy/route", []string{"proxy/workload", "proxy/spiffe"}},
	{"proxy/live", []string{"proxy/spiffe", record}},
	{"proxy/local", []string{"proxy/workload", "proxy/rbac", "proxy/spiffe"}},
	{"proxy/outbound", []string{"proxy/route", "proxy/workload", "proxy/identity", "proxy/hbone", "proxy/relay", "proxy/socket", "proxy/live", "proxy/spiffe", record}},
	{"proxy/inbound", []string{"proxy/route", "proxy/workload", "proxy/rbac", "proxy/identity", "proxy/hbone", "proxy/relay", "proxy/socket", "proxy/live", "proxy/spiffe", record}},
	{"proxy/socks", nil},
	{"proxy/dns", []string{"proxy/workload", record}},
	{"proxy/inpod", []string{"proxy/api/zdsapi", "proxy/socket", record}},
	{"telemetry/...", []string{"telemetry/..."}},
	{"admin", []string{"telemetry/httpd", "telemetry/profiles"}},
	{"loadtest/...", []string{"loadtest/...", "proxy/hbone", "proxy/api/...", "proxy/spiffe"}},
	{"dashboards/...", []string{"telemetry/catalog"}},
	{"alerts/...", []string{"telemetry/catalog"}},
	{"deploy", nil},
}

// thirdParty are the modules that packages may use that should need none.
var thirdParty = map[string][]string{
	"proxy/spiffe": nil,
	"proxy/socket": {"golang.org/x/sys"},
	"proxy/relay":  {"golang.org/x/sys"},
	"proxy/aesgcm": {"golang.org/x/sys"},
	"proxy/tls13":  nil,
	"proxy/rbac":   {"google.golang.org/protobuf"},
	"proxy/route":  nil,
	"proxy/live":   {"go.opentelemetry.io/otel"},
}

// forbidden imports, for packages (not their tests) below a folder; in files
// of the given names they are allowed.
var forbidden = []struct {
	below, prefix, reason string
	except                []string
}{
	{"proxy", "go.opentelemetry.io/otel/sdk", "the data path sees counters, never exporters", nil},
	{"proxy", "go.opentelemetry.io/otel/exporters", "the data path sees counters, never exporters", nil},
	{"proxy", "github.com/prometheus/client_golang", "the data path sees counters, never exporters", nil},
	{"proxy", "go.opentelemetry.io/otel", "instruments are made in metrics.go or trace.go", []string{"metrics.go", "trace.go"}},
	{"", "github.com/stretchr/testify", "tests use testing and go-cmp", nil},
	{"", "golang.org/x/exp", "not stable", nil},
	{"", "golang.org/x/net/http2/h2c", "no plaintext HTTP/2 here", nil},
}

// A pkg is what `go list -json` tells of a package, and its parsed files.
type pkg struct {
	ImportPath, Dir                    string
	Imports                            []string
	GoFiles, TestGoFiles, XTestGoFiles []string

	name  string // path below the module; "." for its top
	files []file
}

type file struct {
	name   string // below the top of the repository
	isTest bool
	lines  int
	ast    *ast.File
	set    *token.FileSet
}

// packages lists and parses all packages of the module.
func packages(t *testing.T) []pkg {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Dir,Imports,GoFiles,TestGoFiles,XTestGoFiles", "./...")
	list.Dir = top
	output, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for decoder := json.NewDecoder(bytes.NewReader(output)); ; {
		var p pkg
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		p.name = cmp.Or(strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/"), ".")
		for _, name := range p.GoFiles {
			p.files = append(p.files, parse(t, p, name, false))
		}
		for _, name := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			p.files = append(p.files, parse(t, p, name, true))
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list found %d packages, want all", len(all))
	}
	return all
}

func parse(t *testing.T, p pkg, name string, isTest bool) file {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(p.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, name, content, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return file{name: p.name + "/" + name, isTest: isTest, lines: bytes.Count(content, []byte("\n")), ast: parsed, set: set}
}

// matches tells whether pattern, a name or one ending in "...", stands for name.
func matches(pattern, name string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "..."); ok {
		return strings.HasPrefix(name+"/", prefix)
	}
	return pattern == name
}

// allowed returns what a package may import of this module.
func allowed(name string) (patterns []string, found bool) {
	for at := name; at != "." && at != "/"; at = filepath.Dir(at) {
		for _, row := range mayImport {
			if matches(row.name, at) {
				return append([]string{at + "/...", at}, row.imports...), true
			}
		}
	}
	return nil, false
}

func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		patterns, found := allowed(p.name)
		if !found {
			t.Errorf("%s: no rule says what it may import", p.name)
		}
		for _, path := range p.Imports {
			if name, ours := strings.CutPrefix(path, module+"/"); ours {
				if found && !slices.ContainsFunc(patterns, func(pattern string) bool { return matches(pattern, name) }) {
					t.Errorf("%s imports %s, which its rule does not allow", p.name, name)
				}
				continue
			}
			modules, limited := thirdParty[p.name]
			if domain, _, _ := strings.Cut(path, "/"); limited && strings.Contains(domain, ".") &&
				!slices.ContainsFunc(modules, func(m string) bool { return matches(m+"/...", path) }) {
				t.Errorf("%s imports %s, want nothing from outside but %q", p.name, path, modules)
			}
		}
		for _, f := range p.files {
			for _, spec := range f.ast.Imports {
				checkForbidden(t, p, f, spec)
			}
		}
	}
}

func checkForbidden(t *testing.T, p pkg, f file, spec *ast.ImportSpec) {
	t.Helper()
	path, err := strconv.Unquote(spec.Path.Value)
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range forbidden {
		switch {
		case !matches(rule.prefix+"/...", path),
			rule.below != "" && (f.isTest || !matches(rule.below+"/...", p.name)),
			slices.Contains(rule.except, filepath.Base(f.name)):
		default:
			t.Errorf("%s imports %s: %s", f.name, path, rule.reason)
		}
	}
}

// The linter's table says the same as ours.
func TestImportsAgreeWithLinter(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(top, ".golangci.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Linters struct {
			Settings struct {
				Depguard struct {
					Rules map[string]struct {
						Files, Allow []string
						Deny         []struct{ Pkg, Desc string }
					}
				}
			}
		}
	}
	if err := yaml.Unmarshal(content, &config); err != nil {
		t.Fatal(err)
	}
	theirs, ours := map[string][]string{}, map[string][]string{}
	for name, rule := range config.Linters.Settings.Depguard.Rules {
		for _, deny := range rule.Deny {
			if deny.Desc == "" {
				t.Errorf("depguard rule %s denies %s without a reason", name, deny.Pkg)
			}
		}
		if len(rule.Deny) != 1 || rule.Deny[0].Pkg != module+"/" {
			continue // about other modules
		}
		var imports []string
		for _, path := range rule.Allow {
			if path, ok := strings.CutPrefix(path, module+"/"); ok {
				imports = append(imports, path)
			}
		}
		where := strings.TrimSuffix(strings.TrimPrefix(rule.Files[0], "**/"), "/*.go")
		slices.Sort(imports)
		theirs[where] = imports
	}
	for _, row := range mayImport {
		if row.name == "cmd/..." || row.name == "proxy" {
			continue // free, or nearly
		}
		var imports []string
		for _, name := range row.imports {
			if prefix, ok := strings.CutSuffix(name, "/..."); ok {
				imports = append(imports, prefix)
			} else {
				imports = append(imports, name+"$")
			}
		}
		where := strings.Replace(row.name, "/...", "/**", 1)
		slices.Sort(imports)
		ours[where] = imports
	}
	if diff := gocmp.Diff(ours, theirs); diff != "" {
		t.Errorf("what packages may import, here and in .golangci.yml (-here +there):\n%s", diff)
	}
}

func TestPackageComments(t *testing.T) {
	for _, p := range packages(t) {
		var documented []string
		for _, f := range p.files {
			if !f.isTest && f.ast.Doc != nil && !ast.IsGenerated(f.ast) {
				documented = append(documented, f.name)
			}
		}
		if len(documented) != 1 && len(p.GoFiles) > 0 {
			t.Errorf("%s has package comments in %q, want exactly one", p.name, documented)
		}
	}
}

func TestSizes(t *testing.T) {
	for _, p := range packages(t) {
		for _, f := range p.files {
			if f.isTest || ast.IsGenerated(f.ast) {
				continue
			}
			if f.lines > mostFileLines {
				t.Errorf("%s has %d lines, want at most %d", f.name, f.lines, mostFileLines)
			}
			for _, decl := range f.ast.Decls {
				function, ok := decl.(*ast.FuncDecl)
				if !ok {
					continue
				}
				first, last := f.set.Position(function.Pos()).Line, f.set.Position(function.End()).Line
				if lines := last - first + 1; lines > mostFunctionLines {
					t.Errorf("%s:%d: %s has %d lines, want at most %d", f.name, first, function.Name.Name, lines, mostFunctionLines)
				}
			}
		}
	}
}

// The environment is read in one place.
func TestEnvironment(t *testing.T) {
	readers := []string{"Getenv", "LookupEnv", "Environ", "ExpandEnv"}
	for _, p := range packages(t) {
		if p.name == "cmd/ztunnel" || p.name == "proxy/config" {
			continue
		}
		for _, f := range p.files {
			if f.isTest {
				continue
			}
			ast.Inspect(f.ast, func(n ast.Node) bool {
				selector, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if from, ok := selector.X.(*ast.Ident); ok && (from.Name == "os" || from.Name == "syscall") && slices.Contains(readers, selector.Sel.Name) {
					t.Errorf("%s:%d uses %s.%s; only cmd/ztunnel and proxy/config read the environment", f.name, f.set.Position(n.Pos()).Line, from.Name, selector.Sel.Name)
				}
				return true
			})
		}
	}
}

func TestNoReplace(t *testing.T) {
	edit := exec.CommandContext(t.Context(), "go", "mod", "edit", "-json")
	edit.Dir = top
	output, err := edit.Output()
	if err != nil {
		t.Fatalf("go mod edit: %v", err)
	}
	var mod struct {
		Module  struct{ Path string }
		Replace []any
	}
	if err := json.Unmarshal(output, &mod); err != nil {
		t.Fatal(err)
	}
	if mod.Module.Path != module || len(mod.Replace) > 0 {
		t.Errorf("go.mod is of %s with %d replacements, want %s with none", mod.Module.Path, len(mod.Replace), module)
	}
}

// What lies at the top is what the map of the repository shows.
func TestTopLevel(t *testing.T) {
	known := []string{
		"cmd", "proxy", "telemetry", "admin", "dashboards", "alerts", "loadtest", "deploy",
		"go.mod", "go.sum", "Makefile", "README.md", "bin", // bin is built, and ignored by git
	}
	entries, err := os.ReadDir(top)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if name := entry.Name(); !strings.HasPrefix(name, ".") && !slices.Contains(known, name) {
			t.Errorf("%s lies at the top, want only %q and what begins with a dot", name, known)
		}
	}
}
