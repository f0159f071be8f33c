// Package dashboards builds the Grafana dashboards that ship with ztunnel. A
// dashboard is a Go value of few types (rows of [Stat], [Timeseries] and
// [Table] panels, variables, thresholds), which [Dashboard.JSON] turns into the
// JSON that Grafana imports. The JSON is checked in beside this file and a
// golden test keeps it current: `make dashboards` rewrites it.
//
// The tests hold what a linter of dashboards would: every panel has a title, a
// description and a unit, every query reads the data source variable, ends in
// metrics and labels of the catalog, uses counters by rate or increase only,
// parses, and finds samples in a recorded scrape.
//
// A small builder of our own stands here because Grafana's Go library is not
// obtainable from the module proxy. It knows only what these dashboards use.
package dashboards
