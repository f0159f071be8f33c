package dashboards

// Dashboard is one dashboard.
type Dashboard struct {
	// UID is the identity in Grafana: the same UID replaces.
	UID         string
	Title       string
	Description string
	Tags        []string
	Variables   []Variable
	Rows        []Row
}

// Variable is a choice at the top of the dashboard. Queries use its name after
// a dollar sign.
type Variable struct {
	Name, Label, Description string
	// Query lists the values, in Grafana's notation: label_values(…).
	Query string
	// All is the regular expression that stands for all values. Without it
	// Grafana lists the values it has found.
	All string
}

// Row is a heading with panels below, laid out from left to right.
type Row struct {
	Title string
	// Height of its panels, in Grafana's units of about 30 pixels.
	Height int
	Panels []Panel
}

// Panel is a [Stat], a [Timeseries] or a [Table].
type Panel interface {
	frame() *Frame
	body() panelJSON
}

// Frame is what every panel has.
type Frame struct {
	Title string
	// Description says what is shown and what to think of it.
	Description string
	Unit        Unit
	// Width of the panel; a row is 24 wide.
	Width int
	// None is shown in place of "No data".
	None       string
	Thresholds []Threshold
	Queries    []Query
}

func (f *Frame) frame() *Frame { return f }

// Query is one PromQL expression.
type Query struct {
	Expr string
	// Legend names the series, with labels in double braces. In a table it is
	// the heading of the column of values.
	Legend string
}

// Threshold colours values from From on, up to the next one. The first one
// stands for everything below the second too.
type Threshold struct {
	From  float64
	Color Color
}

// Stat shows the value of now, large.
type Stat struct {
	Frame
	// Texts replace values.
	Texts map[string]string
}

// Timeseries shows the course of values.
type Timeseries struct {
	Frame
	// Stacked adds the series up, for parts of a whole.
	Stacked bool
}

// Table shows the values of now, one row for each set of labels.
type Table struct {
	Frame
	// Labels are the columns before the values, from left to right. Other
	// labels are not shown.
	Labels []Column
	// SortBy is the heading of the column that orders the rows, descending
	// unless Ascending.
	SortBy    string
	Ascending bool
}

// Column is a label with the heading that stands for it.
type Column struct{ Label, Heading string }

// Unit is a unit by Grafana's name.
type Unit string

// The units.
const (
	Count          Unit = "short"
	PerSecond      Unit = "cps"
	Bytes          Unit = "bytes"
	BytesPerSecond Unit = "Bps"
	Share          Unit = "percentunit" // 1 is 100 %
	Seconds        Unit = "s"
)

// Color is a colour by Grafana's name.
type Color string

// The colours.
const (
	Green  Color = "green"
	Yellow Color = "yellow"
	Red    Color = "red"
)
