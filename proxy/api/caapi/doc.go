// Package caapi owns the wire form of Istio's certificate service and its gRPC client and server stubs. The Go code is
// generated from ca.proto by proxy/api/generate.sh, that is:
//
//	protoc --proto_path=. --go_out=. --go_opt=paths=source_relative \
//	  --go-grpc_out=. --go-grpc_opt=paths=source_relative caapi/ca.proto
//
// Package identity is its client.
package caapi
