package promqlcheck

import (
	"errors"
	"fmt"
	"slices"
)

// Expr is what an expression uses.
type Expr struct {
	Selectors []Selector
	Groupings []Grouping
}

// Selector is one use of a metric.
type Selector struct {
	Metric   string
	Matchers []Matcher
	// Range is the text between the square brackets, empty for an instant.
	Range string
	// Function is the innermost function or aggregation around the selector,
	// empty if there is none.
	Function string
}

// Matcher is one condition on a label. Value is without its quotes.
type Matcher struct{ Label, Operator, Value string }

// Grouping is a list of labels: by, on, group_left and so on.
type Grouping struct {
	Keyword string
	Labels  []string
	// Selectors are the selectors that the list is about, as indices of
	// Expr.Selectors.
	Selectors []int
}

var (
	aggregations = []string{"avg", "bottomk", "count", "count_values", "group", "max", "min", "quantile", "stddev", "stdvar", "sum", "topk"}
	functions    = []string{
		"abs", "absent", "absent_over_time", "avg_over_time", "ceil", "changes", "clamp", "clamp_max", "clamp_min", "count_over_time",
		"delta", "deriv", "floor", "histogram_quantile", "increase", "irate", "last_over_time", "max_over_time", "min_over_time",
		"predict_linear", "quantile_over_time", "rate", "resets", "round", "scalar", "sort", "sort_desc", "sum_over_time", "time",
		"timestamp", "vector",
	}
	matchings = []string{"on", "ignoring", "group_left", "group_right"}
	operators = []string{"and", "or", "unless", "bool", "offset", "atan2", "inf", "nan", "Inf", "NaN"}
)

// frame is an open bracket.
type frame struct {
	function string
	first    int // of Expr.Selectors within
	grouping int // of Expr.Groupings that is about what is within, -1 for none
}

// scanner walks over the tokens of an expression.
type scanner struct {
	tokens []token
	at     int
	frames []frame
	expr   Expr

	function string // read, and its bracket is not open yet
	grouping int    // of that function, -1 for none
}

var errEnd = errors.New("the expression ends early")

// Scan reads an expression. What it does not know is an error.
func Scan(expr string) (*Expr, error) {
	tokens, err := tokenize(expr)
	if err != nil {
		return nil, err
	}
	s := &scanner{tokens: tokens, grouping: -1}
	for s.at < len(s.tokens) {
		if err := s.step(); err != nil {
			return nil, err
		}
	}
	if len(s.frames) > 0 || s.function != "" {
		return nil, errEnd
	}
	all := make([]int, len(s.expr.Selectors))
	for i := range all {
		all[i] = i
	}
	for i, g := range s.expr.Groupings {
		if slices.Contains(matchings, g.Keyword) {
			s.expr.Groupings[i].Selectors = all
		}
	}
	return &s.expr, nil
}

// next takes a token; it is zero at the end.
func (s *scanner) next() token {
	t := s.peek()
	s.at++
	return t
}

func (s *scanner) peek() token {
	if s.at >= len(s.tokens) {
		return token{kind: symbol}
	}
	return s.tokens[s.at]
}

func (s *scanner) step() error {
	t := s.next()
	if s.function != "" && t.text != "(" && t.text != "by" && t.text != "without" {
		return fmt.Errorf("%q after %s, want its arguments", t.text, s.function)
	}
	switch {
	case t.kind == word:
		return s.name(t.text)
	case t.text == "(":
		s.frames = append(s.frames, frame{s.function, len(s.expr.Selectors), s.grouping})
		s.function, s.grouping = "", -1
	case t.text == ")":
		if len(s.frames) == 0 {
			return errors.New("one ) too many")
		}
		f := s.frames[len(s.frames)-1]
		s.frames = s.frames[:len(s.frames)-1]
		if f.grouping >= 0 {
			for i := f.first; i < len(s.expr.Selectors); i++ {
				g := &s.expr.Groupings[f.grouping]
				g.Selectors = append(g.Selectors, i)
			}
		}
	case t.kind == symbol && (t.text == "{" || t.text == "}" || t.text == "[" || t.text == "]" || t.text == ":"):
		return fmt.Errorf("%q without a metric before it", t.text)
	}
	return nil
}

// name reads what begins with a name.
func (s *scanner) name(name string) error {
	switch {
	case name == "by" || name == "without":
		if s.function == "" {
			return fmt.Errorf("%q behind an argument: write it before", name)
		}
		s.grouping = len(s.expr.Groupings)
		return s.labels(name)
	case slices.Contains(matchings, name):
		if s.peek().text != "(" {
			return nil // group_left may stand alone
		}
		return s.labels(name)
	case slices.Contains(operators, name):
		return nil
	case slices.Contains(aggregations, name) || slices.Contains(functions, name):
		s.function = name
		return nil
	case s.peek().text == "(":
		return fmt.Errorf("unknown function %s", name)
	}
	return s.selector(name)
}

// labels reads the list of a grouping.
func (s *scanner) labels(keyword string) error {
	g := Grouping{Keyword: keyword}
	if t := s.next(); t.text != "(" {
		return fmt.Errorf("%q after %s, want (", t.text, keyword)
	}
	for s.peek().text != ")" {
		t := s.next()
		if t.kind != word {
			return fmt.Errorf("%q after %s, want a label", t.text, keyword)
		}
		g.Labels = append(g.Labels, t.text)
		if s.peek().text == "," {
			s.next()
		}
	}
	s.next()
	s.expr.Groupings = append(s.expr.Groupings, g)
	return nil
}

// selector reads matchers and range of a metric.
func (s *scanner) selector(metric string) error {
	sel := Selector{Metric: metric}
	if n := len(s.frames); n > 0 {
		sel.Function = s.frames[n-1].function
	}
	if s.peek().text == "{" {
		s.next()
		for s.peek().text != "}" {
			label, operator, value := s.next(), s.next(), s.next()
			if label.kind != word || !slices.Contains([]string{"=", "!=", "=~", "!~"}, operator.text) || value.kind != text {
				return fmt.Errorf("%s: %q %q %q is no condition on a label", metric, label.text, operator.text, value.text)
			}
			sel.Matchers = append(sel.Matchers, Matcher{label.text, operator.text, value.text[1 : len(value.text)-1]})
			if s.peek().text == "," {
				s.next()
			}
		}
		s.next()
	}
	if s.peek().text == "[" {
		s.next()
		t := s.next()
		if closing := s.next(); (t.kind != number && t.kind != variable) || closing.text != "]" {
			return fmt.Errorf("%s[%s%s: want one duration", metric, t.text, closing.text)
		}
		sel.Range = t.text
	}
	s.expr.Selectors = append(s.expr.Selectors, sel)
	return nil
}
