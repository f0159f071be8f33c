package identity

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"

	"ztunnel/proxy/spiffe"
)

// pemCertificate is the type of PEM blocks that hold certificates (RFC 7468 section 5.1).
const pemCertificate = "CERTIFICATE"

// Errors of what a CA answers, in the reference's words.
var (
	errNotCertificate = errors.New("certificate: no certificate")
	errNoRoot         = errors.New("invalid root certificate: no root certificate present")
)

// ParseChain makes a certificate of the answer of a CA to a request for id: PEM texts, the first one the leaf, the last one
// all roots together, and one intermediate in each of those between. Of a leaf's or intermediate's text only the first
// block counts. A root that cannot be parsed is skipped with a warning to options.Log, as long as one is left.
//
// Whether the certificate is one of id is for the caller to check, see CheckID. The error is an *EmptyChainError or a
// *CSRError.
func ParseChain(id spiffe.ID, key crypto.Signer, chain []string, options TLSOptions) (*Certificate, error) {
	if len(chain) == 0 {
		return nil, &EmptyChainError{ID: id}
	}
	c, err := parseChain(id, key, chain, options)
	if err != nil {
		return nil, &CSRError{Err: err}
	}
	return c, nil
}

func parseChain(id spiffe.ID, key crypto.Signer, chain []string, options TLSOptions) (*Certificate, error) {
	log := options.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	leaf, err := parseOne(chain[0])
	if err != nil {
		return nil, err
	}
	if len(chain) == 1 {
		log.Warn("no chain certs for: " + id.String())
		return nil, errNoRoot
	}
	between, last := chain[1:len(chain)-1], chain[len(chain)-1]
	intermediates := make([]*x509.Certificate, 0, len(between))
	for _, text := range between {
		c, err := parseOne(text)
		if err != nil {
			return nil, err
		}
		intermediates = append(intermediates, c)
	}
	roots, invalid, err := parseRoots(last)
	if err != nil {
		return nil, err
	}
	if invalid > 0 {
		log.Warn(fmt.Sprintf("warning: found %d invalid root certs", invalid))
	}
	return NewCertificate(key, leaf, intermediates, roots, options)
}

// parseOne reads the certificate in the first PEM block of a text.
func parseOne(text string) (*x509.Certificate, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != pemCertificate {
		return nil, errNotCertificate
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("certificate parse: %w", err)
	}
	return c, nil
}

// parseRoots reads all certificates of a text, and counts those that cannot be parsed.
func parseRoots(text string) (roots []*x509.Certificate, invalid int, err error) {
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return roots, invalid, nil
		}
		if block.Type != pemCertificate {
			return nil, 0, errNotCertificate
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			roots = append(roots, c)
		} else {
			invalid++
		}
	}
}

// CheckID returns a *SANError if the certificate's own identity is not id. A CA that is asked on behalf of a workload has
// to answer with exactly that identity.
func (c *Certificate) CheckID(id spiffe.ID) error {
	if !c.hasID || c.id != id {
		return &SANError{ID: id}
	}
	return nil
}
