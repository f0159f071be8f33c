// Package discoveryapi owns the wire form of Envoy's delta discovery protocol (xDS), as far as Istio's control plane uses it
// towards ztunnel, and its gRPC client and server stubs. The Go code is generated from discovery.proto by
// proxy/api/generate.sh, that is:
//
//	protoc --proto_path=. --go_out=. --go_opt=paths=source_relative \
//	  --go-grpc_out=. --go-grpc_opt=paths=source_relative discoveryapi/discovery.proto
//
// It stands in for Envoy's own Go bindings, which cost several megabytes of memory and noticeable time at start. On the wire
// the two are the same; in one process they exclude each other, for they register the same names. Package xds is its client,
// and reads responses without the messages generated for them, which are for servers and tests.
package discoveryapi
