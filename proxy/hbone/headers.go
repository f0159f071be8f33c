package hbone

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"strings"
)

// Names of the header fields that the mesh puts on a CONNECT.
const (
	// HeaderBaggage describes the source workload, in a response the
	// destination workload.
	HeaderBaggage = "baggage"
	// HeaderForwarded carries the client's address and the host that the
	// connection is meant for (RFC 7239).
	HeaderForwarded = "forwarded"
	// HeaderTraceparent carries the trace id (W3C Trace Context).
	HeaderTraceparent = "traceparent"
	// HeaderForwardedNetwork carries the sender's network on the inner request
	// of double HBONE.
	HeaderForwardedNetwork = "x-forwarded-network"
)

// Keys of Baggage on the wire; that of the workload's name depends on its type.
const (
	baggageCluster   = "k8s.cluster.name"
	baggageNamespace = "k8s.namespace.name"
	baggageService   = "service.name"
	baggageVersion   = "service.version"
	baggageRegion    = "cloud.region"
	baggageZone      = "cloud.availability_zone"

	baggageWorkloadPrefix = "k8s."
	baggageWorkloadSuffix = ".name"
	defaultWorkloadType   = "deployment"
)

// Baggage is what a proxy says of a workload. Empty fields are unknown. It comes
// from the peer without proof: it may describe, never authorize.
type Baggage struct {
	Cluster   string // cluster id
	Namespace string
	// WorkloadType is deployment, cronjob, pod or job, the type of Workload;
	// unknown counts as deployment.
	WorkloadType string
	Workload     string
	Service      string // canonical service name
	Version      string // canonical service revision
	Region, Zone string // locality
}

// Append appends the value of the header field: the known fields joined by
// commas in the order of the reference, without any encoding. A value that a
// header field cannot carry is left out.
func (b *Baggage) Append(dst []byte) []byte {
	start := len(dst)
	dst = appendBaggage(dst, start, b.Cluster, baggageCluster)
	dst = appendBaggage(dst, start, b.Namespace, baggageNamespace)
	kind := b.WorkloadType
	if kind == "" {
		kind = defaultWorkloadType
	}
	dst = appendBaggage(dst, start, b.Workload, baggageWorkloadPrefix, kind, baggageWorkloadSuffix)
	dst = appendBaggage(dst, start, b.Service, baggageService)
	dst = appendBaggage(dst, start, b.Version, baggageVersion)
	dst = appendBaggage(dst, start, b.Region, baggageRegion)
	return appendBaggage(dst, start, b.Zone, baggageZone)
}

func appendBaggage(dst []byte, start int, value string, key ...string) []byte {
	if value == "" || !visible(value) {
		return dst
	}
	if len(dst) > start {
		dst = append(dst, ',')
	}
	for _, part := range key {
		dst = append(dst, part...)
	}
	dst = append(dst, '=')
	return append(dst, value...)
}

// String returns the value of the header field, "" if nothing is known. Callers
// that send it often keep it.
func (b *Baggage) String() string { return string(b.Append(nil)) }

// ParseBaggage reads all baggage fields of a header, in the manner of the
// reference: nothing is trimmed or decoded, what follows a second "=" is
// dropped, an empty value makes a field unknown again, the last of several
// counts, unknown keys and entries without "=" are skipped. It reports false,
// with an empty result, if a field holds something else than visible ASCII.
func ParseBaggage(h Header) (Baggage, bool) {
	var b Baggage
	for i := range h {
		if h[i].Name != HeaderBaggage {
			continue
		}
		if !visible(h[i].Value) {
			return Baggage{}, false
		}
		for entry := range strings.SplitSeq(h[i].Value, ",") {
			key, value, ok := strings.Cut(entry, "=")
			if ok {
				value, _, _ = strings.Cut(value, "=")
				b.set(key, value)
			}
		}
	}
	return b, true
}

func (b *Baggage) set(key, value string) {
	switch key {
	case baggageCluster:
		b.Cluster = value
	case baggageNamespace:
		b.Namespace = value
	case baggageService:
		b.Service = value
	case baggageVersion:
		b.Version = value
	case baggageRegion:
		b.Region = value
	case baggageZone:
		b.Zone = value
	case "k8s.deployment.name", "k8s.cronjob.name", "k8s.pod.name", "k8s.job.name":
		b.Workload, b.WorkloadType = value, ""
		if value != "" {
			b.WorkloadType = key[len(baggageWorkloadPrefix) : len(key)-len(baggageWorkloadSuffix)]
		}
	}
}

// AppendForwarded appends the value of the forwarded field: the client's address
// and, if it is known, the host of the intended service.
func AppendForwarded(dst []byte, client netip.AddrPort, host string) []byte {
	dst = append(dst, `for="`...)
	dst = client.AppendTo(dst)
	dst = append(dst, '"')
	if host != "" && visible(host) {
		dst = append(dst, ";host="...)
		dst = append(dst, host...)
	}
	return dst
}

// Forwarded returns what AppendForwarded appends, with one allocation.
func Forwarded(client netip.AddrPort, host string) string {
	var buf [128]byte
	return string(AppendForwarded(buf[:0], client, host))
}

// ParseForwardedHost returns the host of a forwarded field, "" if it has none:
// that of the first element that begins with host=, without one quote at each
// end. A field with any other than ASCII characters has none.
func ParseForwardedHost(value string) string {
	for i := range len(value) {
		if value[i] >= 0x80 {
			return ""
		}
	}
	for element := range strings.SplitSeq(value, ";") {
		if host, ok := strings.CutPrefix(strings.TrimSpace(element), "host="); ok {
			return strings.TrimSuffix(strings.TrimPrefix(host, `"`), `"`)
		}
	}
	return ""
}

// Traceparent is the trace context of one application connection.
type Traceparent struct {
	Version  byte
	TraceID  [16]byte
	ParentID [8]byte
	Flags    byte
}

// traceparentLen is the length of the field, and the dashes are at 2, 35 and 52.
const traceparentLen = 55

// NewTraceparent returns a random trace context that is not sampled. It need
// not be hard to guess, only unlikely to occur twice.
func NewTraceparent() Traceparent {
	var t Traceparent
	binary.NativeEndian.PutUint64(t.TraceID[:8], rand.Uint64())
	binary.NativeEndian.PutUint64(t.TraceID[8:], rand.Uint64())
	binary.NativeEndian.PutUint64(t.ParentID[:], rand.Uint64())
	return t
}

// Append appends the value of the header field.
func (t *Traceparent) Append(dst []byte) []byte {
	dst = hex.AppendEncode(dst, []byte{t.Version})
	dst = append(dst, '-')
	dst = hex.AppendEncode(dst, t.TraceID[:])
	dst = append(dst, '-')
	dst = hex.AppendEncode(dst, t.ParentID[:])
	dst = append(dst, '-')
	return hex.AppendEncode(dst, []byte{t.Flags})
}

// String returns the value of the header field, with one allocation.
func (t *Traceparent) String() string {
	var buf [traceparentLen]byte
	return string(t.Append(buf[:0]))
}

// ID returns the trace id in hexadecimal digits.
func (t *Traceparent) ID() string { return hex.EncodeToString(t.TraceID[:]) }

// ParseTraceparent reads the value of the field. Anything but 55 characters with
// four hexadecimal fields of the right lengths is malformed and to be ignored.
func ParseTraceparent(s string) (Traceparent, bool) {
	if len(s) != traceparentLen || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return Traceparent{}, false
	}
	var t Traceparent
	var edge [2]byte // version and flags
	for _, f := range [...]struct {
		dst []byte
		src string
	}{{edge[:1], s[:2]}, {t.TraceID[:], s[3:35]}, {t.ParentID[:], s[36:52]}, {edge[1:], s[53:]}} {
		if _, err := hex.Decode(f.dst, []byte(f.src)); err != nil {
			return Traceparent{}, false
		}
	}
	t.Version, t.Flags = edge[0], edge[1]
	return t, true
}

// visible reports whether a header field may carry s: visible ASCII, blanks and
// tabs.
func visible(s string) bool {
	for i := range len(s) {
		if c := s[i]; c != '\t' && (c < ' ' || c > '~') {
			return false
		}
	}
	return true
}
