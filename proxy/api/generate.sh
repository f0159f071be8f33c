#!/bin/sh
# Writes the Go code of the .proto files below this directory. Needs protoc, protoc-gen-go and protoc-gen-go-grpc in PATH:
#   go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
#   go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.0
set -eu
cd "$(dirname "$0")"
for f in workloadapi/workload.proto securityapi/authorization.proto zdsapi/zds.proto; do
	protoc --proto_path=. --go_out=. --go_opt=paths=source_relative "$f"
done
for f in caapi/ca.proto discoveryapi/discovery.proto; do
	protoc --proto_path=. --go_out=. --go_opt=paths=source_relative \
		--go-grpc_out=. --go-grpc_opt=paths=source_relative "$f"
done
