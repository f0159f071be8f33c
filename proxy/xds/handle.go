package xds

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// Handler puts the resources of one type into force. It is called by one goroutine at a time.
type Handler interface {
	// Handle applies one response as one step: its resources in order, then its removals. It ranges once over Resources,
	// and then once over Removed. What it can't accept it rejects; the rest is applied all the same. When it returns,
	// everything is visible to readers.
	Handle(b *Batch)
}

// Batch is one response on its way to a Handler. It is good until Handle returns.
type Batch struct {
	// Unchanged, which a handler may set before it ranges over Resources, is told of each resource that is left out because it
	// is in force already, in the order of the response. The name is good until it returns.
	Unchanged func(name []byte)

	size     int
	bodies   iter.Seq[[]byte]
	removed  []string
	typ      *resourceType
	rejected rejections
	bytes    int      // of all bodies
	same     int      // resources that were in force already
	answered []string // on-demand keys that the response answers
}

// Len returns how many resources the response has. The batch may hand out fewer: one that is in force already in the same
// version is left out.
func (b *Batch) Len() int { return b.size }

// Resource is one resource of a batch.
type Resource struct {
	// Name is its name. The client keeps it as long as the resource: what is stored should share it.
	Name string
	// Body is the encoded resource. It is good until the next resource and must not be kept or changed.
	Body []byte

	err     error
	applied bool // rejected but in force
}

// Reject says that the resource is not accepted. The control plane is told its name and the error's text. What was in force
// before under that name stays known as such, unless the handler replaces it nonetheless.
func (r *Resource) Reject(err error) { r.err = err }

// RejectApplied rejects the resource although it is put into force, for what it says is better than what it replaces. A new
// stream claims it without a version: it is sent again, and its removal is not missed.
func (r *Resource) RejectApplied(err error) { r.err, r.applied = err, true }

// ErrNoBody is the reason to reject a resource without a body.
var ErrNoBody = errors.New("XDS payload without resource")

// Resources walks the resources in the order of the response. The resource is good until the next one.
func (b *Batch) Resources() iter.Seq[*Resource] {
	return func(yield func(*Resource) bool) {
		var h head
		var r Resource
		for body := range b.bodies {
			err := h.parse(body)
			if err != nil {
				err = fmt.Errorf("decode: failed to decode Protobuf message: %w", err)
			} else if !h.hasBody {
				err = ErrNoBody
			}
			b.bytes += len(h.body)
			b.seen(&h)
			if err == nil && b.typ.retained.has(h.name, h.version) {
				b.same++
				if b.Unchanged != nil {
					b.Unchanged(h.name)
				}
				continue
			}
			r = Resource{Name: string(h.name), Body: h.body, err: err}
			if err == nil && !yield(&r) {
				return
			}
			version := h.version
			if r.err != nil {
				b.rejected.add(r.Name, r.err)
				if !r.applied {
					continue
				}
				version = nil
			}
			b.typ.retained.put(r.Name, version)
		}
	}
}

// seen notes what the presence of a resource tells, whether or not it is accepted.
func (b *Batch) seen(h *head) {
	delete(b.typ.unclaimed, string(h.name))
	if d := b.typ.demands; d != nil {
		b.answered = d.matches(b.answered, h.name)
		for _, alias := range h.aliases {
			b.answered = d.matches(b.answered, alias)
		}
	}
}

// Removed walks the names of the resources that are gone. A name may be unknown.
func (b *Batch) Removed() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, name := range b.removed {
			if !yield(name) {
				return
			}
		}
		// A first response has all that was not claimed; what it does not have is gone.
		for name := range b.typ.unclaimed {
			if !yield(name) {
				return
			}
		}
	}
}

// settle takes the removals out of what is retained. It goes after Handle.
func (b *Batch) settle() {
	for name := range b.Removed() {
		b.typ.retained.remove(name)
	}
	b.typ.unclaimed = nil
}

// Bounds of what a rejection says. It goes into a header-like field that the control plane logs.
const (
	maxRejectionText = 8 << 10
	maxReasonText    = 1 << 10
)

// rejections is the text of a NACK: each "NAME: REASON", joined by "; ".
type rejections struct {
	text  strings.Builder
	count int
	more  int // that are not in the text
}

func (r *rejections) add(name string, err error) {
	r.count++
	reason := clip(strings.TrimPrefix(err.Error(), name+": "))
	name = clip(name)
	if r.text.Len()+len(name)+len(reason) > maxRejectionText {
		r.more++
		return
	}
	if r.text.Len() > 0 {
		r.text.WriteString("; ")
	}
	r.text.WriteString(name + ": " + reason)
}

func (r *rejections) String() string {
	if r.more > 0 {
		return fmt.Sprintf("%s; and %d more", r.text.String(), r.more)
	}
	return r.text.String()
}

// clip makes s valid UTF-8 of little more than maxReasonText bytes.
func clip(s string) string {
	if len(s) > maxReasonText {
		s = s[:maxReasonText] + "…"
	}
	return strings.ToValidUTF8(s, "")
}

// batch prepares a response for the handler of its type.
func (t *resourceType) batch(r *response) *Batch {
	b := &Batch{size: r.resources, bodies: r.bodies(), removed: r.removed, typ: t}
	if t.demands != nil {
		for _, name := range r.removed {
			b.answered = t.demands.matches(b.answered, []byte(name))
		}
		b.answered = slices.Clip(b.answered)
	}
	return b
}
