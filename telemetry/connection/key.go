package connection

import (
	"hash/maphash"
	"math/bits"
	"strings"
	"unicode/utf8"
)

const (
	unknown        = "unknown"
	overflow       = "overflow"
	defaultCluster = "Kubernetes" // what an empty cluster of a workload record means

	// maxClaim bounds, in bytes, a label value that comes from a peer's claims
	// (baggage): the longest name in Kubernetes.
	maxClaim = 253
)

// end is what the labels say of one end of a connection. The label version is
// always the canonical revision, so it is not kept apart.
type end struct {
	workload, canonical, revision, namespace, principal, app, cluster, region, zone string
}

// key are the values of the traffic labels but response_flags. It is
// comparable and holds no empty string.
type key struct {
	reporter  Reporter
	mutualTLS bool
	// locality says that the four labels of regions and zones are present:
	// they are all there as soon as one end has a workload record, or none is.
	locality    bool
	src, dst    end
	serviceHost string
	serviceNS   string
	serviceName string
}

// keyOf resolves the labels of a connection.
func keyOf(k *key, d *Details) {
	k.reporter, k.mutualTLS = d.Reporter, d.MutualTLS
	k.src.fill(d.Source)
	k.dst.fill(d.Destination)
	k.locality = d.Source != nil && d.Source.Known || d.Destination != nil && d.Destination.Known
	k.src.principal = unknown
	if d.MutualTLS {
		k.src.principal = or(d.SourcePrincipal, unknown)
	}
	k.dst.principal = d.DestinationPrincipal
	if k.dst.principal == "" && d.Destination != nil {
		k.dst.principal = d.Destination.Principal
	}
	k.dst.principal = or(k.dst.principal, unknown)
	if s := d.Service; s != nil {
		k.serviceHost, k.serviceNS, k.serviceName = or(s.Hostname, unknown), or(s.Namespace, unknown), or(s.Name, unknown)
	} else {
		k.serviceHost, k.serviceNS, k.serviceName = unknown, unknown, unknown
	}
}

func (e *end) fill(w *Workload) {
	switch {
	case w == nil:
		*e = end{unknown, unknown, unknown, unknown, unknown, unknown, unknown, unknown, unknown}
	case w.Known:
		e.workload, e.canonical, e.revision = or(w.Name, unknown), or(w.CanonicalName, unknown), or(w.CanonicalRevision, unknown)
		e.namespace, e.cluster = or(w.Namespace, unknown), or(w.Cluster, defaultCluster)
		e.region, e.zone = or(w.Region, unknown), or(w.Zone, unknown)
		e.app = or(w.App, e.canonical)
	default:
		e.workload, e.canonical, e.revision = claim(w.Name), claim(w.CanonicalName), claim(w.CanonicalRevision)
		e.namespace, e.cluster = claim(w.Namespace), claim(w.Cluster)
		e.region, e.zone = claim(w.Region), claim(w.Zone)
		e.app = e.canonical
		if w.App != "" {
			e.app = claim(w.App)
		}
	}
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// claim is a value that a peer claims: unknown unless it could be a name.
func claim(s string) string {
	if s == "" || len(s) > maxClaim || !utf8.ValidString(s) {
		return unknown
	}
	return s
}

// values calls f with a pointer to each string of the key.
func (k *key) values(f func(*string)) {
	for _, e := range []*end{&k.src, &k.dst} {
		for _, s := range []*string{&e.workload, &e.canonical, &e.revision, &e.namespace, &e.principal, &e.app, &e.cluster, &e.region, &e.zone} {
			f(s)
		}
	}
	for _, s := range []*string{&k.serviceHost, &k.serviceNS, &k.serviceName} {
		f(s)
	}
}

// valid says whether all values can be exported: one invalid label would make
// every later scrape fail.
func (k *key) valid() bool {
	ok := true
	k.values(func(s *string) { ok = ok && utf8.ValidString(*s) })
	return ok
}

// detach copies the strings, so that a series does not keep alive what they
// were cut from, such as a header of the first connection.
func (k *key) detach() {
	k.values(func(s *string) { *s = strings.Clone(*s) })
}

// collapse makes it the key of the overflow series: every label is there, and
// those with unbounded values read "overflow".
func (k *key) collapse() {
	k.values(func(s *string) { *s = overflow })
	k.locality = true
}

// shard spreads keys over the shards of a recorder by the names that differ
// most between pairs.
func (k *key) shard(seed maphash.Seed) uint64 {
	h := maphash.String(seed, k.src.workload)
	h = bits.RotateLeft64(h, 21) ^ maphash.String(seed, k.dst.workload)
	h = bits.RotateLeft64(h, 21) ^ maphash.String(seed, k.serviceHost)
	return h % shards
}
