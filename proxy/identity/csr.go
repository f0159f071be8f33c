package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"

	"ztunnel/proxy/spiffe"
)

// NewCSR makes a fresh ECDSA P-256 key and a PKCS #10 request (RFC 2986) in PEM to sign it for id. The request has an empty
// subject and exactly one extension, a critical subjectAltName with the identity as its one URI: istiod ignores it, but
// other CAs go by it. The key exists in memory alone. The error is a *CSRError.
func NewCSR(id spiffe.ID) (csr []byte, key crypto.Signer, err error) {
	csr, key, err = newCSR(id)
	if err != nil {
		return nil, nil, &CSRError{Err: err}
	}
	return csr, key, nil
}

func newCSR(id spiffe.ID) ([]byte, crypto.Signer, error) {
	san, err := uriSAN(id.String())
	if err != nil {
		return nil, nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		SignatureAlgorithm: x509.ECDSAWithSHA256,
		// Not URIs: those would become an extension that is not critical.
		ExtraExtensions: []pkix.Extension{{Id: oidSubjectAltName, Critical: true, Value: san}},
	}, key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), key, nil
}

// uriSAN is the value of a subjectAltName extension with one URI, taken as it is. It must be ASCII.
func uriSAN(uri string) ([]byte, error) {
	for i := range len(uri) {
		if uri[i] >= 0x80 {
			return nil, errors.New("invalid uri: not ASCII: " + uri)
		}
	}
	return asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: tagURI & 0x1f, Bytes: []byte(uri)}})
}
