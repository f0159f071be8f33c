// Package workload owns what a node knows about the mesh: the workloads, the services and which workload is an endpoint
// of which service. Store indexes them by address, hostname and UID; one writer (the control-plane client or the local
// configuration) changes it in batches, any number of readers look things up. Stored values are immutable: a reader
// takes the lock for the lookup alone and keeps the pointer.
//
// The package also converts the control plane's messages (proto.go) and writes the config_dump forms (dump.go). It
// chooses among services that share an address, but not among endpoints: that is the business of package route.
package workload
