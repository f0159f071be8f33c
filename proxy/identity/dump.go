package identity

import (
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
)

// DumpEntry is one identity in the object `certificates` of config_dump, in the form that istioctl reads.
type DumpEntry struct {
	Identity  string            `json:"identity"`
	State     string            `json:"state"`     // Initializing, Available, or "Unavailable: " and the reason
	CertChain []DumpCertificate `json:"certChain"` // the leaf first, without the root; empty unless Available
	RootCerts []DumpCertificate `json:"rootCerts"`
}

// DumpCertificate is one certificate in a DumpEntry.
type DumpCertificate struct {
	PEM            []byte `json:"pem"`            // the PEM text; JSON makes base64 of it
	SerialNumber   string `json:"serialNumber"`   // decimal
	ValidFrom      string `json:"validFrom"`      // RFC 3339, whole seconds, UTC
	ExpirationTime string `json:"expirationTime"` // the same
}

// Dump lists the identities held, sorted by their text. It contains no keys.
func (m *Manager) Dump() []DumpEntry {
	list := m.snapshot()
	dump := make([]DumpEntry, 0, len(list))
	for _, s := range list {
		d := DumpEntry{Identity: s.id, State: s.state(), CertChain: []DumpCertificate{}, RootCerts: []DumpCertificate{}}
		if s.cert != nil {
			d.CertChain = append(dumpCertificates([]*x509.Certificate{s.cert.leaf}), dumpCertificates(s.cert.intermediates)...)
			d.RootCerts = dumpCertificates(s.cert.roots)
		}
		dump = append(dump, d)
	}
	return dump
}

func dumpCertificates(list []*x509.Certificate) []DumpCertificate {
	dump := make([]DumpCertificate, 0, len(list))
	for _, c := range list {
		dump = append(dump, DumpCertificate{
			PEM:            pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: c.Raw}),
			SerialNumber:   c.SerialNumber.String(),
			ValidFrom:      formatTime(c.NotBefore),
			ExpirationTime: formatTime(c.NotAfter),
		})
	}
	return dump
}

// held is the state of an identity at one time.
type held struct {
	id   string
	cert *Certificate
	err  error
}

func (h *held) state() string {
	switch {
	case h.cert != nil:
		return "Available"
	case h.err != nil:
		return "Unavailable: " + h.err.Error()
	}
	return "Initializing"
}

// snapshot lists what is held, sorted by the text of the identity.
func (m *Manager) snapshot() []held {
	m.mu.Lock()
	list := make([]held, 0, len(m.entries))
	for id, e := range m.entries {
		list = append(list, held{id: id.String(), cert: e.cert, err: e.err})
	}
	m.mu.Unlock()
	slices.SortFunc(list, func(a, b held) int { return strings.Compare(a.id, b.id) })
	return list
}
