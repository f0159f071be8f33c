// Package promqlcheck tells whether a PromQL expression uses only metrics and
// labels that exist, and uses them as their types allow. It reads expressions
// as tokens and brackets: it is no parser, promtool is, and the tests that call
// this package ask promtool as well. It refuses what it cannot follow
// (subqueries, a grouping behind its argument), so that what it accepts is
// checked.
//
// The tests of dashboards and alerts are the callers; nothing of it is in the
// binary.
package promqlcheck
