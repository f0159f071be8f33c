package dashboards

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// schemaVersion is that of Grafana 10.4; later ones migrate it.
const schemaVersion = 39

// columns is the width of a dashboard.
const columns = 24

// The types below are the part of Grafana's model that is written.
type (
	dashboardJSON struct {
		UID           string         `json:"uid"`
		Title         string         `json:"title"`
		Description   string         `json:"description"`
		Tags          []string       `json:"tags"`
		SchemaVersion int            `json:"schemaVersion"`
		Editable      bool           `json:"editable"`
		GraphTooltip  int            `json:"graphTooltip"` // 1: a cursor in all panels
		Refresh       string         `json:"refresh"`
		Time          timeJSON       `json:"time"`
		Timezone      string         `json:"timezone"`
		Templating    templatingJSON `json:"templating"`
		Panels        []panelJSON    `json:"panels"`
	}
	timeJSON struct {
		From string `json:"from"`
		To   string `json:"to"`
	}
	templatingJSON struct {
		List []variableJSON `json:"list"`
	}
	variableJSON struct {
		Name        string          `json:"name"`
		Label       string          `json:"label"`
		Description string          `json:"description,omitempty"`
		Type        string          `json:"type"`
		Datasource  *datasourceJSON `json:"datasource,omitempty"`
		Query       any             `json:"query"`
		Definition  string          `json:"definition,omitempty"`
		Refresh     int             `json:"refresh"` // 1: when loaded, 2: with the time range
		Sort        int             `json:"sort,omitempty"`
		Multi       bool            `json:"multi,omitempty"`
		IncludeAll  bool            `json:"includeAll,omitempty"`
		AllValue    string          `json:"allValue,omitempty"`
		Current     *currentJSON    `json:"current,omitempty"`
	}
	currentJSON struct {
		Selected bool     `json:"selected"`
		Text     []string `json:"text"`
		Value    []string `json:"value"`
	}
	variableQueryJSON struct {
		Query string `json:"query"`
		RefID string `json:"refId"`
	}
	datasourceJSON struct {
		Type string `json:"type"`
		UID  string `json:"uid"`
	}
	panelJSON struct {
		ID              int             `json:"id"`
		Type            string          `json:"type"`
		Title           string          `json:"title"`
		Description     string          `json:"description,omitempty"`
		GridPos         gridJSON        `json:"gridPos"`
		Datasource      *datasourceJSON `json:"datasource,omitempty"`
		Collapsed       *bool           `json:"collapsed,omitempty"`
		Panels          []panelJSON     `json:"panels,omitempty"`
		Targets         []targetJSON    `json:"targets,omitempty"`
		FieldConfig     *fieldsJSON     `json:"fieldConfig,omitempty"`
		Options         map[string]any  `json:"options,omitempty"`
		Transformations []objectJSON    `json:"transformations,omitempty"`
	}
	gridJSON struct {
		H int `json:"h"`
		W int `json:"w"`
		X int `json:"x"`
		Y int `json:"y"`
	}
	targetJSON struct {
		RefID        string         `json:"refId"`
		Datasource   datasourceJSON `json:"datasource"`
		Expr         string         `json:"expr"`
		LegendFormat string         `json:"legendFormat,omitempty"`
		Instant      bool           `json:"instant"`
		Range        bool           `json:"range"`
		Format       string         `json:"format"`
	}
	fieldsJSON struct {
		Defaults  fieldJSON    `json:"defaults"`
		Overrides []objectJSON `json:"overrides"`
	}
	fieldJSON struct {
		Unit       Unit           `json:"unit"`
		NoValue    string         `json:"noValue,omitempty"`
		Min        *float64       `json:"min,omitempty"`
		Color      objectJSON     `json:"color"`
		Thresholds thresholdsJSON `json:"thresholds"`
		Mappings   []objectJSON   `json:"mappings,omitempty"`
		Custom     objectJSON     `json:"custom,omitempty"`
	}
	thresholdsJSON struct {
		Mode  string     `json:"mode"`
		Steps []stepJSON `json:"steps"`
	}
	stepJSON struct {
		Color Color    `json:"color"`
		Value *float64 `json:"value"` // null for the lowest
	}
	objectJSON = map[string]any
)

func source() datasourceJSON { return datasourceJSON{"prometheus", "${datasource}"} }

// JSON returns the dashboard as Grafana imports it.
func (d *Dashboard) JSON() ([]byte, error) {
	out := dashboardJSON{
		UID: d.UID, Title: d.Title, Description: d.Description, Tags: d.Tags,
		SchemaVersion: schemaVersion, Editable: true, GraphTooltip: 1, Refresh: "30s",
		Time: timeJSON{"now-1h", "now"}, Timezone: "browser",
		Templating: templatingJSON{[]variableJSON{{Name: "datasource", Label: "Data source", Type: "datasource", Query: "prometheus", Refresh: 1}}},
	}
	for _, v := range d.Variables {
		s := source()
		out.Templating.List = append(out.Templating.List, variableJSON{
			Name: v.Name, Label: v.Label, Description: v.Description, Type: "query", Datasource: &s,
			Query: variableQueryJSON{v.Query, v.Name}, Definition: v.Query, Refresh: 2, Sort: 1, Multi: true, IncludeAll: true, AllValue: v.All,
			Current: &currentJSON{true, []string{"All"}, []string{"$__all"}},
		})
	}
	out.Panels = layout(d.Rows)
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(out); err != nil {
		return nil, fmt.Errorf("encode dashboard %s: %w", d.UID, err)
	}
	return b.Bytes(), nil
}

// layout gives every row and panel its place and number.
func layout(rows []Row) []panelJSON {
	var panels []panelJSON
	add := func(p panelJSON, at gridJSON) {
		p.ID, p.GridPos = len(panels)+1, at
		panels = append(panels, p)
	}
	y := 0
	for _, row := range rows {
		open := false
		add(panelJSON{Type: "row", Title: row.Title, Collapsed: &open}, gridJSON{H: 1, W: columns, Y: y})
		y++
		x := 0
		for _, p := range row.Panels {
			w := p.frame().Width
			if x+w > columns {
				x, y = 0, y+row.Height
			}
			add(p.body(), gridJSON{H: row.Height, W: w, X: x, Y: y})
			x += w
		}
		y += row.Height
	}
	return panels
}

// panel writes what all kinds have in common.
func (f *Frame) panel(kind string, target targetJSON) panelJSON {
	s := source()
	p := panelJSON{
		Type: kind, Title: f.Title, Description: f.Description, Datasource: &s,
		FieldConfig: &fieldsJSON{
			Defaults: fieldJSON{
				Unit: f.Unit, NoValue: f.None,
				Color:      objectJSON{"mode": "palette-classic"},
				Thresholds: thresholdsJSON{Mode: "absolute", Steps: []stepJSON{{Color: Green}}},
			},
			Overrides: []objectJSON{},
		},
	}
	if len(f.Thresholds) > 0 {
		steps := make([]stepJSON, len(f.Thresholds))
		for i, t := range f.Thresholds {
			steps[i].Color = t.Color
			if i > 0 {
				steps[i].Value = &f.Thresholds[i].From
			}
		}
		p.FieldConfig.Defaults.Thresholds.Steps = steps
	}
	for i, q := range f.Queries {
		t := target
		t.RefID, t.Datasource, t.Expr, t.LegendFormat = refID(i), s, q.Expr, q.Legend
		p.Targets = append(p.Targets, t)
	}
	return p
}

// refID names the i-th query of a panel.
func refID(i int) string { return string(rune('A' + i)) }

func (s *Stat) body() panelJSON {
	p := s.panel("stat", targetJSON{Instant: true, Format: "time_series"})
	d := &p.FieldConfig.Defaults
	d.Color = objectJSON{"mode": "thresholds"}
	if len(s.Texts) > 0 {
		texts := objectJSON{}
		for i, value := range slices.Sorted(maps.Keys(s.Texts)) {
			texts[value] = objectJSON{"index": i, "text": s.Texts[value]}
		}
		d.Mappings = []objectJSON{{"type": "value", "options": texts}}
	}
	p.Options = objectJSON{
		"colorMode": "value", "graphMode": "none", "justifyMode": "auto", "orientation": "auto", "textMode": "auto",
		"reduceOptions": objectJSON{"calcs": []string{"lastNotNull"}, "fields": "", "values": false},
	}
	return p
}

func (s *Timeseries) body() panelJSON {
	p := s.panel("timeseries", targetJSON{Range: true, Format: "time_series"})
	stacking, fill := "none", 10
	if s.Stacked {
		stacking, fill = "normal", 40
	}
	line := "off"
	if len(s.Thresholds) > 0 {
		line = "line"
	}
	var zero float64
	d := &p.FieldConfig.Defaults
	d.Min = &zero
	d.Custom = objectJSON{
		"drawStyle": "line", "lineWidth": 1, "fillOpacity": fill, "showPoints": "auto", "spanNulls": false,
		"stacking": objectJSON{"mode": stacking, "group": "A"}, "thresholdsStyle": objectJSON{"mode": line},
	}
	p.Options = objectJSON{
		"legend":  objectJSON{"displayMode": "table", "placement": "bottom", "showLegend": true, "calcs": []string{"lastNotNull", "max"}},
		"tooltip": objectJSON{"mode": "multi", "sort": "desc"},
	}
	return p
}

func (t *Table) body() panelJSON {
	p := t.panel("table", targetJSON{Instant: true, Format: "table"})
	var fields []string
	names, order := map[string]string{}, map[string]int{}
	column := func(field, heading string) {
		order[field] = len(fields)
		names[field] = heading
		fields = append(fields, field)
	}
	for _, c := range t.Labels {
		column(c.Label, c.Heading)
	}
	for i, q := range t.Queries {
		field := "Value"
		if len(t.Queries) > 1 {
			field += " #" + refID(i)
		}
		column(field, q.Legend)
		p.Targets[i].LegendFormat = ""
	}
	p.Transformations = []objectJSON{
		{"id": "merge", "options": objectJSON{}},
		{"id": "filterFieldsByName", "options": objectJSON{"include": objectJSON{"names": fields}}},
		{"id": "organize", "options": objectJSON{"indexByName": order, "renameByName": names}},
	}
	if len(t.Thresholds) > 0 {
		for _, q := range t.Queries {
			p.FieldConfig.Overrides = append(p.FieldConfig.Overrides, objectJSON{
				"matcher":    objectJSON{"id": "byName", "options": q.Legend},
				"properties": []objectJSON{{"id": "custom.cellOptions", "value": objectJSON{"type": "color-text"}}, {"id": "color", "value": objectJSON{"mode": "thresholds"}}},
			})
		}
	}
	p.Options = objectJSON{
		"showHeader": true, "cellHeight": "sm",
		"sortBy": []objectJSON{{"displayName": t.SortBy, "desc": !t.Ascending}},
	}
	return p
}
