// Package zdsapi owns the packets exchanged with Istio's CNI node agent. The Go code is generated from zds.proto by
// proxy/api/generate.sh, that is:
//
//	protoc --proto_path=. --go_out=. --go_opt=paths=source_relative zdsapi/zds.proto
package zdsapi
