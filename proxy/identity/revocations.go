package identity

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"time"
)

// The extensions of a list that say that it does not mean what it would mean without them (RFC 5280 sections 5.2.4, 5.2.5).
var (
	oidDeltaCRL                 = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidIssuingDistributionPoint = asn1.ObjectIdentifier{2, 5, 29, 28}
)

// tagIndirect is indirectCRL [4] of an issuingDistributionPoint.
const tagIndirect = 0x84

const (
	pemCRL   = "X509 CRL"
	pemBegin = "-----BEGIN "
)

// revocations are the certificates that a file of lists revokes. They do not change, but for the cache in a list.
type revocations struct {
	byIssuer   map[string][]*revocationList // by the DER of the issuer's name
	count      int                          // lists
	entries    int                          // revoked certificates
	loaded     time.Time
	nextUpdate time.Time // the earliest one; zero if no list has one
}

// revocationList is one list of one issuer.
type revocationList struct {
	serials map[string]struct{} // of the revoked certificates, as big-endian bytes

	// What is signed, and how.
	tbs, signature []byte
	algorithm      x509.SignatureAlgorithm

	mu     sync.Mutex
	signed map[[sha256.Size]byte]bool // by the hash of an issuer's public key: whether the list is of that issuer
}

// maxSigners bounds the cache of one list. More issuers of one name than that are not to be expected.
const maxSigners = 64

// parseRevocations reads what a file of lists holds: nothing, lists in PEM among blocks of other types, or one in DER. What
// begins like PEM has to be well-formed to its end, so that half a file is not taken for a whole one.
func parseRevocations(text []byte) (*revocations, error) {
	r := &revocations{byIssuer: make(map[string][]*revocationList), loaded: time.Now()}
	trimmed := bytes.TrimSpace(text)
	switch {
	case len(trimmed) == 0:
		return r, nil
	case !bytes.HasPrefix(trimmed, []byte(pemBegin)):
		if err := r.add(text); err != nil {
			return nil, err
		}
		return r, nil
	}
	blocks := bytes.Count(trimmed, []byte(pemBegin))
	for rest := trimmed; ; blocks-- {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != pemCRL {
			continue
		}
		if err := r.add(block.Bytes); err != nil {
			return nil, err
		}
	}
	if blocks != 0 {
		return nil, errors.New("parse revocation lists: broken PEM")
	}
	return r, nil
}

// add takes one list in DER.
func (r *revocations) add(der []byte) error {
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return fmt.Errorf("parse revocation list: %w", err)
	}
	for _, e := range list.Extensions {
		switch {
		case e.Id.Equal(oidDeltaCRL):
			return errors.New("parse revocation list: delta lists are not supported")
		case e.Id.Equal(oidIssuingDistributionPoint):
			if indirect(e.Value) {
				return errors.New("parse revocation list: indirect lists are not supported")
			}
		case e.Critical:
			return fmt.Errorf("parse revocation list: critical extension %v is not supported", e.Id)
		}
	}
	l := &revocationList{
		serials: make(map[string]struct{}, len(list.RevokedCertificateEntries)),
		tbs:     list.RawTBSRevocationList, signature: list.Signature, algorithm: list.SignatureAlgorithm,
	}
	for _, e := range list.RevokedCertificateEntries {
		if e.SerialNumber.Sign() >= 0 { // nothing else is accepted in a certificate
			l.serials[string(e.SerialNumber.Bytes())] = struct{}{}
		}
	}
	r.byIssuer[string(list.RawIssuer)] = append(r.byIssuer[string(list.RawIssuer)], l)
	r.count++
	r.entries += len(l.serials)
	if next := list.NextUpdate; !next.IsZero() && (r.nextUpdate.IsZero() || next.Before(r.nextUpdate)) {
		r.nextUpdate = next
	}
	return nil
}

// indirect reports whether an issuingDistributionPoint says that a list revokes certificates of other issuers too. Whatever
// else it says only narrows what the list is about; the certificates in it are revoked all the same.
func indirect(der []byte) bool {
	tag, fields, _, ok := element(der)
	if !ok || tag != tagSequence {
		return true // we do not understand it
	}
	for len(fields) > 0 {
		var value []byte
		if tag, value, fields, ok = element(fields); !ok {
			return true
		}
		if tag == tagIndirect && !bytes.Equal(value, []byte{0}) {
			return true
		}
	}
	return false
}

// check returns a *RevokedError if each of the chains has a revoked certificate. It may be called on nil.
func (r *revocations) check(chains [][]*x509.Certificate) error {
	if r == nil || r.entries == 0 {
		return nil
	}
	var first error
	for _, chain := range chains {
		err := r.checkChain(chain)
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// checkChain looks up each certificate but the root, which has no issuer above it.
func (r *revocations) checkChain(chain []*x509.Certificate) error {
	for i := 0; i+1 < len(chain); i++ {
		for _, l := range r.byIssuer[string(chain[i].RawIssuer)] {
			if l.revokes(chain[i], chain[i+1]) {
				return &RevokedError{Serial: chain[i].SerialNumber.String()}
			}
		}
	}
	return nil
}

// revokes reports whether a certificate is in the list, and the list one of its issuer. Names alone do not say that: when a
// root is replaced by a new one, both often have the same.
//
// A list that the key of the issuer signed counts even if the issuer's certificate lacks the key usage cRLSign. The
// reference then refuses all certificates of that issuer; refusing those in the list serves the same end.
func (l *revocationList) revokes(cert, issuer *x509.Certificate) bool {
	if _, ok := l.serials[string(cert.SerialNumber.Bytes())]; !ok {
		return false
	}
	key := sha256.Sum256(issuer.RawSubjectPublicKeyInfo)
	l.mu.Lock()
	defer l.mu.Unlock()
	signed, ok := l.signed[key]
	if !ok {
		signed = issuer.CheckSignature(l.algorithm, l.tbs, l.signature) == nil
		if l.signed == nil || len(l.signed) >= maxSigners {
			l.signed = make(map[[sha256.Size]byte]bool)
		}
		l.signed[key] = signed
	}
	return signed
}
