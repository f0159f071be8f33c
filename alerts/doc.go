// Package alerts holds the alert rules that ship with ztunnel (ztunnel.yaml),
// their unit tests (ztunnel_test.yaml, which `make alerts-test` runs with
// promtool) and what to do when one fires (RUNBOOKS.md). There is no Go in it
// but tests: every metric and label of a rule is in the catalog, every alert has
// a runbook, fires in one unit test and stays silent in another, and the queries
// of the runbooks parse.
//
// The rules expect the label app="ztunnel" on the series of ztunnel, as Istio's
// scrape configuration copies it from the pod. It tells them from the series of
// waypoints, sidecars and every other process.
package alerts
