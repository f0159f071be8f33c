package config

import (
	"fmt"
	"strings"
)

// Status says what a variable does in this version.
type Status string

// The statuses of variables.
const (
	// Used variables take effect.
	Used Status = "used"
	// Later variables are parsed and checked; what they configure is not
	// built yet.
	Later Status = "later"
	// Ignored variables are known to be set by installations and do nothing.
	Ignored Status = "ignored"
)

// Variable describes one environment variable, or with <K> at the end of its
// name all variables that begin with what stands before.
type Variable struct {
	Name    string
	Group   string // the heading it stands under
	Type    string // what values look like, for readers
	Default string // as one would write it in the environment; "" if there is none
	Unset   string // what holds without it, in words, if there is no Default
	Meaning string
	Status  Status
	Secret  bool // its value must not be shown
}

// prefixMark ends the name of a variable that stands for all with its prefix.
const prefixMark = "<K>"

// variable is one row of the table: a description and what to do with values.
type variable struct {
	Variable
	set  func(in *inputs, value string) error      // nil for Ignored
	each func(in *inputs, key, value string) error // instead of set for prefixes; errors are final
	// emptyUnset makes an empty value mean what an absent variable means, as
	// OpenTelemetry demands; elsewhere empty is a value like any other.
	emptyUnset bool
}

// into makes a setter out of a parser and the field that takes its result.
func into[T any](parse parser[T], field func(*inputs) *T) func(*inputs, string) error {
	return func(in *inputs, value string) error {
		parsed, err := parse(value)
		if err != nil {
			return err
		}
		*field(in) = parsed
		return nil
	}
}

// intoPointer is into for fields that tell unset from zero.
func intoPointer[T any](parse parser[T], field func(*inputs) **T) func(*inputs, string) error {
	return func(in *inputs, value string) error {
		parsed, err := parse(value)
		if err != nil {
			return err
		}
		*field(in) = &parsed
		return nil
	}
}

// table returns all variables in the order in which they are parsed and
// documented.
func table() []variable {
	var all []variable
	for _, group := range []struct {
		name string
		rows []variable
	}{
		{"Mode and place", placeVariables()},
		{"Control plane and certificates", controlVariables()},
		{"Local configuration and metadata", metadataVariables()},
		{"Data path", dataPathVariables()},
		{"HBONE, deadlines and drain", tunnelVariables()},
		{"Threads", threadVariables()},
		{"Logging", loggingVariables()},
		{"Telemetry", telemetryVariables()},
		{"OTLP push of metrics", otlpVariables()},
		{"Continuous profiling", pyroscopeVariables()},
	} {
		for _, row := range group.rows {
			row.Group = group.name
			if row.Status == "" {
				row.Status = Used
			}
			all = append(all, row)
		}
	}
	return all
}

// Variables returns every environment variable this process knows, grouped, in
// the order of the documentation.
func Variables() []Variable {
	rows := table()
	list := make([]Variable, len(rows))
	for i := range rows {
		list[i] = rows[i].Variable
	}
	return list
}

// MarkdownTable returns the documentation of all variables: one table per
// group.
func MarkdownTable() string {
	var b strings.Builder
	b.WriteString("Values marked *(later)* are checked at start, but what they configure is not built yet.\n\n")
	group := ""
	for _, v := range Variables() {
		if v.Group != group {
			if group != "" {
				b.WriteString("\n")
			}
			group = v.Group
			fmt.Fprintf(&b, "**%s**\n\n| Variable | Type | Default | Meaning |\n|---|---|---|---|\n", group)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", v.Name, cell(v.Type), v.defaultCell(), cell(v.meaningCell()))
	}
	return b.String()
}

func (v *Variable) defaultCell() string {
	switch {
	case v.Default != "":
		return "`" + cell(v.Default) + "`"
	case v.Unset != "":
		return cell(v.Unset)
	default:
		return "–"
	}
}

func (v *Variable) meaningCell() string {
	if v.Status == Later {
		return v.Meaning + " *(later)*"
	}
	return v.Meaning
}

// cell escapes what would end a cell of a table.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
