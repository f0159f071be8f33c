// Package deploy holds what an operator applies to a Kubernetes cluster with
// Istio: the Dockerfile, kustomize overlays over the output of Istio's own
// ztunnel chart (overlays), and the steps (README.md). There is no Go in it but
// tests. They build the overlays with kustomize over stand-ins of that output
// (testdata) and compare the whole result with the input: what an overlay
// changes is what the tests list, and nothing else.
package deploy
