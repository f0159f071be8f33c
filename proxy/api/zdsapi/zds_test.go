package zdsapi

import (
	"testing"

	"google.golang.org/protobuf/proto"
)

// The bytes are what Istio's node agent sends and expects.
func TestWire(t *testing.T) {
	for _, tt := range []struct {
		name string
		msg  proto.Message
		want string
	}{
		{"hello", &ZdsHello{Version: Version_V1}, "\x08\x01"},
		{"positive ack", &WorkloadResponse{Payload: &WorkloadResponse_Ack{Ack: &Ack{}}}, "\x0a\x00"},
		{"negative ack", &WorkloadResponse{Payload: &WorkloadResponse_Ack{Ack: &Ack{Error: "e"}}}, "\x0a\x03\x0a\x01e"},
		{"snapshot sent", &WorkloadRequest{Payload: &WorkloadRequest_SnapshotSent{SnapshotSent: &SnapshotSent{}}}, "\x1a\x00"},
		{"del", &WorkloadRequest{Payload: &WorkloadRequest_Del{Del: &DelWorkload{Uid: "u"}}}, "\x12\x03\x12\x01u"},
		{"keep", &WorkloadRequest{Payload: &WorkloadRequest_Keep{Keep: &KeepWorkload{Uid: "u"}}}, "\x2a\x03\x0a\x01u"},
		{
			"add", &WorkloadRequest{Payload: &WorkloadRequest_Add{Add: &AddWorkload{Uid: "u", WorkloadInfo: &WorkloadInfo{Name: "n", Namespace: "s", ServiceAccount: "a"}}}},
			"\x0a\x0e\x0a\x01u\x12\x09\x0a\x01n\x12\x01s\x1a\x01a",
		},
	} {
		got, err := proto.MarshalOptions{Deterministic: true}.Marshal(tt.msg)
		if err != nil || string(got) != tt.want {
			t.Errorf("%s: Marshal = %q, %v, want %q", tt.name, got, err, tt.want)
		}
	}
}
