package proxy_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// The tables of testdata/edgecases say, for every line of the lists of edge
// cases that the specification pins, which test holds it. Rows are
// "| case | held by |"; the second cell has one or more references, separated by
// ", ": package.Test or package.Test/subtest of this repository, with the
// package's folder, or conformance:area.Test of the black-box tests beside it.

// edgeCaseRows is the least number of rows of each table. It only grows: a case
// that is gone from a list is struck out here, with the reason in the commit.
var edgeCaseRows = map[string]int{
	"dataplane.md": 132, "telemetry.md": 66, "state.md": 136, "identity.md": 117,
}

// The black-box tests, if they are there.
const conformanceCases = "../../shared/conformance/cases"

var reference = regexp.MustCompile(`(?:^|, )(conformance:)?([a-z0-9_/]+)\.((?:Test|Fuzz)[A-Za-z0-9_]*)`)

// TestEdgeCases_AreHeld checks that every row names tests, and that they exist.
func TestEdgeCases_AreHeld(t *testing.T) {
	own := &testTree{root: ".."}
	var conformance *testTree
	if _, err := os.Stat(conformanceCases); err == nil {
		conformance = &testTree{root: conformanceCases}
	}
	for file, least := range edgeCaseRows {
		text, err := os.ReadFile(filepath.Join("testdata", "edgecases", file))
		if err != nil {
			t.Error(err)
			continue
		}
		rows, problems := parseEdgeCases(string(text))
		for _, p := range problems {
			t.Errorf("%s:%s", file, p)
		}
		if len(rows) < least {
			t.Errorf("%s has %d rows, want at least %d", file, len(rows), least)
		}
		for _, row := range rows {
			for _, ref := range row.held {
				tree := own
				if ref.conformance {
					tree = conformance
				}
				if tree == nil {
					continue
				}
				if err := tree.has(ref); err != nil {
					t.Errorf("%s:%d: %s: %v", file, row.line, row.what, err)
				}
			}
		}
	}
}

// edgeCase is a row of a table.
type edgeCase struct {
	line int
	what string
	held []testReference
}

// testReference names a test.
type testReference struct {
	conformance             bool
	folder, function, under string // under is the name of a subtest, or ""
}

func (r testReference) String() string {
	s := r.folder + "." + r.function
	if r.under != "" {
		s += "/" + r.under
	}
	return s
}

// parseEdgeCases reads the rows of a table, and what is wrong with it.
func parseEdgeCases(text string) (rows []edgeCase, problems []string) {
	cases := map[string]bool{}
	heading := ""
	for i, line := range strings.Split(text, "\n") {
		problem := func(format string, args ...any) {
			problems = append(problems, fmt.Sprintf("%d: %s", i+1, fmt.Sprintf(format, args...)))
		}
		if strings.HasPrefix(line, "#") {
			heading = line
		}
		if !strings.HasPrefix(line, "|") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "| "), "|")
		if len(cells) == 2 && (strings.TrimSpace(cells[0]) == "case" || strings.HasPrefix(strings.TrimSpace(cells[0]), "--")) {
			continue
		}
		if len(cells) != 2 {
			problem("%d cells, want 2", len(cells))
			continue
		}
		row := edgeCase{line: i + 1, what: strings.TrimSpace(cells[0])}
		switch key := heading + "\n" + row.what; {
		case row.what == "":
			problem("a row without a case")
		case cases[key]:
			problem("%q is there twice", row.what)
		default:
			cases[key] = true
		}
		var err error
		if row.held, err = parseReferences(strings.TrimSpace(strings.ReplaceAll(cells[1], "`", ""))); err != nil {
			problem("%v", err)
		}
		rows = append(rows, row)
	}
	return rows, problems
}

// parseReferences reads references. The names of subtests may have commas.
func parseReferences(cell string) (refs []testReference, err error) {
	found := reference.FindAllStringSubmatchIndex(cell, -1)
	if len(found) == 0 || found[0][0] != 0 {
		return nil, fmt.Errorf("%q is no reference to a test", cell)
	}
	for i, at := range found {
		end := len(cell)
		if i+1 < len(found) {
			end = found[i+1][0]
		}
		rest := cell[at[1]:end]
		under, sub := strings.CutPrefix(rest, "/")
		if rest != "" && (!sub || under == "") {
			return nil, fmt.Errorf("%q follows the name of a test", rest)
		}
		refs = append(refs, testReference{at[2] >= 0, cell[at[4]:at[5]], cell[at[6]:at[7]], under})
	}
	return refs, nil
}

// testTree is the tests below a folder, which are read when they are needed.
type testTree struct {
	root    string
	folders map[string]*testFolder
}

// testFolder is the test functions of a folder and the literals in its tests.
type testFolder struct {
	functions map[string]bool
	literals  map[string]bool
}

// has fails unless a test exists. Names of subtests are looked for among the
// literals of the package's tests: one of them is the name or the begin of it.
func (t *testTree) has(r testReference) error {
	f, err := t.folder(r.folder)
	if err != nil {
		return err
	}
	if !f.functions[r.function] {
		return fmt.Errorf("there is no test %s", r)
	}
	if r.under == "" || f.literals[r.under] {
		return nil
	}
	for s := range f.literals {
		if len(s) >= 8 && strings.HasPrefix(r.under, s) {
			return nil
		}
	}
	return fmt.Errorf("there is no subtest %s", r)
}

func (t *testTree) folder(name string) (*testFolder, error) {
	if f := t.folders[name]; f != nil {
		return f, nil
	}
	files, err := fs.Glob(os.DirFS(t.root), path.Join(name, "*_test.go"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("there are no tests in %s", name)
	}
	f := &testFolder{functions: map[string]bool{}, literals: map[string]bool{}}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(t.root, file), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		f.read(parsed)
	}
	if t.folders == nil {
		t.folders = map[string]*testFolder{}
	}
	t.folders[name] = f
	return f, nil
}

func (f *testFolder) read(file *ast.File) {
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Recv == nil {
				f.functions[n.Name.Name] = true
			}
		case *ast.BasicLit:
			f.literals[n.Value] = true // a number may become a name
			if s, err := strconv.Unquote(n.Value); err == nil {
				f.literals[s] = true
			}
		}
		return true
	})
}

// The checks of TestEdgeCases_AreHeld find what they should.
func TestEdgeCases_Checker(t *testing.T) {
	const good = "# A\n| case | held by |\n|---|---|\n| one | `proxy.TestEdgeCases_Checker/a, b`, proxy/route.TestPick |\n"
	rows, problems := parseEdgeCases(good)
	if len(rows) != 1 || len(problems) != 0 || fmt.Sprint(rows[0].held) != "[proxy.TestEdgeCases_Checker/a, b proxy/route.TestPick]" {
		t.Errorf("parseEdgeCases(%q) = %v, %q", good, rows, problems)
	}
	for _, bad := range []string{
		"| one |", "| one | |", "| | proxy.TestX |", "| one | see elsewhere |", "| one | proxy.TestX and more |", "| one | proxy.TestX, |",
		"| one | proxy.TestX | more |", "| one | proxy.TestX |\n| one | proxy.TestY |", "| one | proxy.helper |", "| one | proxy.TestX/ |",
	} {
		if _, problems := parseEdgeCases(bad); len(problems) == 0 {
			t.Errorf("parseEdgeCases(%q) has no problem", bad)
		}
	}
	tree := &testTree{root: ".."}
	for ref, want := range map[testReference]bool{
		{folder: "proxy", function: "TestEdgeCases_Checker"}:                                 true,
		{folder: "proxy", function: "TestEdgeCases_Checker", under: "a name of a subtest"}:   true,
		{folder: "proxy", function: "TestEdgeCases_Checker", under: "a name " + "of none"}:   false,
		{folder: "proxy", function: "TestNothing" + "OfTheKind"}:                             false,
		{folder: "proxy", function: "parseReferences"}:                                       true, // a regular expression keeps it out
		{folder: "proxy/nowhere", function: "TestPick"}:                                      false,
		{folder: "proxy/testdata", function: "TestPick"}:                                     false,
		{folder: "proxy", function: "TestEdgeCases_Checker", under: "a name of a subtest 2"}: true,
	} {
		if err := tree.has(ref); (err == nil) != want {
			t.Errorf("has(%s) = %v, want found: %t", ref, err, want)
		}
	}
}
