package workload

import (
	"slices"

	"ztunnel/proxy/spiffe"
)

// identities is what Identities was asked for last, and the answer.
type identities struct {
	sans, ids []spiffe.ID
}

// Identities returns the identities of which the workload must have one when it is reached through a service with these
// names: them, then its own. The result is shared by all callers and must not be changed, nor sans afterwards.
func (w *Workload) Identities(sans []spiffe.ID) []spiffe.ID {
	d := w.dialled()
	if last := d.identities.Load(); last != nil && sameSlice(last.sans, sans) {
		return last.ids
	}
	ids := sans
	if own := w.Identity(); !slices.Contains(sans, own) {
		ids = make([]spiffe.ID, len(sans)+1)
		ids[copy(ids, sans)] = own
	}
	d.identities.Store(&identities{sans, ids})
	return ids
}

// sameSlice reports whether two slices are the same elements in memory, or both empty.
func sameSlice[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
