// Package workloadapi owns the wire form of workloads and services as Istio's control plane sends them. The Go code is
// generated from workload.proto by proxy/api/generate.sh, that is:
//
//	protoc --proto_path=. --go_out=. --go_opt=paths=source_relative workloadapi/workload.proto
//
// Package workload converts these messages; nothing else reads them.
package workloadapi
