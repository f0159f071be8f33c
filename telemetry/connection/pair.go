package connection

import (
	"hash/maphash"
	"strings"
	"sync/atomic"

	"ztunnel/telemetry/logging"
)

const (
	// pairSlots is how many pairs are remembered at most, each in about 200
	// bytes and the text of its fields in the access log.
	pairSlots = 1024
	// pairPatience is how many misses it takes to replace a pair. Where more
	// pairs are busy than there are slots, replacing at each miss would cost
	// more than remembering saves.
	pairPatience = 8
)

// ends is what the access log shows of the two ends of a connection and does not
// change while it is open. The identities are empty without mutual TLS.
type ends struct {
	source, destination                 *Workload
	service                             *Service
	sourceIdentity, destinationIdentity string

	common *commonFields // nil unless connections share the ends
}

// commonFields are the fields of the two ends as they were written last.
type commonFields struct {
	source, destination logging.Common
}

func (e *ends) fill(d *Details) {
	e.source, e.destination, e.service = d.Source, d.Destination, d.Service
	if !d.MutualTLS {
		return
	}
	e.sourceIdentity = or(d.SourceIdentity, d.SourcePrincipal)
	e.destinationIdentity = or(d.DestinationIdentity, d.DestinationPrincipal)
	if e.destinationIdentity == "" && d.Destination != nil {
		e.destinationIdentity = d.Destination.Principal
	}
}

// pair is what became of the details of a connection, for the next one with the
// same: it spares it to compare all labels with those of the series, and to
// write the same fields again.
type pair struct {
	ends

	series    *series
	fields    commonFields
	reporter  Reporter
	mutualTLS bool
	// As in the details, copied.
	sourcePrincipal, destinationPrincipal, givenSource, givenDestination string
}

// is says whether the details have all that the labels and the ends come from.
// What workloads and services contain need not be compared: it does not change.
func (p *pair) is(d *Details) bool {
	return p.source == d.Source && p.destination == d.Destination && p.service == d.Service &&
		p.reporter == d.Reporter && p.mutualTLS == d.MutualTLS &&
		p.sourcePrincipal == d.SourcePrincipal && p.destinationPrincipal == d.DestinationPrincipal &&
		p.givenSource == d.SourceIdentity && p.givenDestination == d.DestinationIdentity
}

func newPair(d *Details, s *series) *pair {
	p := &pair{
		series: s, reporter: d.Reporter, mutualTLS: d.MutualTLS,
		sourcePrincipal: strings.Clone(d.SourcePrincipal), destinationPrincipal: strings.Clone(d.DestinationPrincipal),
		givenSource: strings.Clone(d.SourceIdentity), givenDestination: strings.Clone(d.DestinationIdentity),
	}
	p.fill(d)
	p.sourceIdentity, p.destinationIdentity = strings.Clone(p.sourceIdentity), strings.Clone(p.destinationIdentity)
	p.common = &p.fields
	return p
}

// pairs remembers pairs of ends whose workloads have records, which are the same
// objects for connection after connection. It is safe for concurrent use. A pair
// may outlive its series, and keeps its workloads alive until it is replaced.
type pairs struct {
	slots  [pairSlots]atomic.Pointer[pair]
	misses atomic.Uint32 // with another pair in the slot
}

// slot is where the pair of the details is, if it is remembered; nil if it never
// is, because it was made of what a peer claims.
func (c *pairs) slot(seed maphash.Seed, d *Details) *atomic.Pointer[pair] {
	if d.Source != nil && !d.Source.Known || d.Destination != nil && !d.Destination.Known {
		return nil
	}
	h := maphash.Comparable(seed, struct {
		source, destination *Workload
		service             *Service
	}{d.Source, d.Destination, d.Service})
	return &c.slots[(h+uint64(d.Reporter))%pairSlots]
}

// open opens the record in the series of the pair in the slot, if that is the
// one of the details.
func (c *pairs) open(slot *atomic.Pointer[pair], rec *Record, d *Details) bool {
	p := slot.Load()
	if p == nil || !p.is(d) {
		return false
	}
	if !p.series.open(rec) {
		slot.CompareAndSwap(p, nil) // its series was evicted
		return false
	}
	rec.ends = &p.ends
	return true
}

// remember makes the ends of the record, and the pair of its details if that is
// to be remembered in the slot.
func (c *pairs) remember(slot *atomic.Pointer[pair], rec *Record, d *Details) {
	if slot == nil || rec.series.overflow || slot.Load() != nil && c.misses.Add(1)%pairPatience != 0 {
		rec.ends = &ends{}
		rec.ends.fill(d)
		return
	}
	p := newPair(d, rec.series)
	slot.Store(p)
	rec.ends = &p.ends
}
