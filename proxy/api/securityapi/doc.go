// Package securityapi owns the wire form of authorization policies as Istio's control plane sends them. The Go code is
// generated from authorization.proto by proxy/api/generate.sh, that is:
//
//	protoc --proto_path=. --go_out=. --go_opt=paths=source_relative securityapi/authorization.proto
//
// Package rbac converts these messages; nothing else reads them.
package securityapi
