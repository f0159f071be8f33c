package workload

import "slices"

// selection is the classes that connections of one kind are divided among, by weight. It is immutable.
type selection struct {
	kind    kind
	classes []int32  // without those of no weight
	ends    []uint64 // the sum of the weights up to each, with its own
}

// kind is all of a choice that tells who can be chosen.
type kind struct {
	source   place
	port     uint16
	waypoint bool
}

// selection returns what a connection is to choose among. A node's connections come from one place, so the same few are asked
// for again and again.
func (b *classes) selection(e *entry, c *choice) *selection {
	k := kind{placeOf(c.Source), c.Port, c.Waypoint}
	for i := range b.selections {
		if s := b.selections[i].Load(); s != nil && s.kind == k {
			return s
		}
	}
	s := b.selectBest(e, c)
	s.kind = k
	b.selections[(b.selected.Add(1)-1)%uint32(len(b.selections))].Store(s)
	return s
}

// selectBest finds the classes that rank highest.
func (b *classes) selectBest(e *entry, c *choice) *selection {
	s := &selection{}
	best, total := -1, uint64(0)
	for i := range b.list {
		rank := b.rank(e, c, i)
		if rank < 0 || rank < best {
			continue
		}
		if rank > best {
			best, total = rank, 0
			s.classes, s.ends = s.classes[:0], s.ends[:0]
		}
		if weight := b.list[i].weight(); weight > 0 {
			total += weight
			s.classes, s.ends = append(s.classes, int32(i)), append(s.ends, total)
		}
	}
	return s
}

func (s *selection) choose(b *classes, e *entry, rnd Rand) (Endpoint, bool) {
	if len(s.classes) == 0 {
		return Endpoint{}, false
	}
	at := rnd.Uint64N(s.ends[len(s.ends)-1])
	i, found := slices.BinarySearch(s.ends, at)
	if found { // at is the first of the next one
		i++
	}
	if i > 0 {
		at -= s.ends[i-1]
	}
	return b.member(e, int(s.classes[i]), at), true
}
