package caapi

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// The bytes are what Istio's certificate service expects.
func TestWire(t *testing.T) {
	req := &IstioCertificateRequest{Csr: "c", ValidityDuration: 2, Metadata: &structpb.Struct{}}
	got, err := proto.Marshal(req)
	if want := "\x0a\x01c\x18\x02\x22\x00"; err != nil || string(got) != want {
		t.Errorf("Marshal of a request = %q, %v, want %q", got, err, want)
	}
	resp := &IstioCertificateResponse{}
	if err := proto.Unmarshal([]byte("\x0a\x01a\x0a\x01b"), resp); err != nil || len(resp.GetCertChain()) != 2 {
		t.Errorf("Unmarshal of a response = %v, %v, want a chain of two", resp, err)
	}
	if want := "/istio.v1.auth.IstioCertificateService/CreateCertificate"; IstioCertificateService_CreateCertificate_FullMethodName != want {
		t.Errorf("method = %s, want %s", IstioCertificateService_CreateCertificate_FullMethodName, want)
	}
}
