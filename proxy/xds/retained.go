package xds

import "strconv"

// retained is the names and versions of the resources of one type that are in force, as far as they came from the control
// plane. It is what a new stream claims to have. It lives as long as the process, for one goroutine at a time. In a large
// mesh it has a hundred thousand entries, so a version that is a short hash, as those of Istio are, is kept as a number;
// the names are shared with the stores where the handler arranges for it.
type retained struct {
	hashes map[string]uint64 // versions that are numbers in hexadecimal
	others map[string]string // all other versions, also the empty one
}

func newRetained() *retained {
	return &retained{hashes: make(map[string]uint64), others: make(map[string]string)}
}

func (r *retained) len() int { return len(r.hashes) + len(r.others) }

// put records a version in place of any other of that name.
func (r *retained) put(name string, version []byte) {
	if h, ok := parseHash(version); ok {
		r.hashes[name] = h
		delete(r.others, name)
		return
	}
	r.others[name] = string(version)
	delete(r.hashes, name)
}

func (r *retained) remove(name string) {
	delete(r.hashes, name)
	delete(r.others, name)
}

// has reports whether this very content is in force already. Only versions that are hashes of the content can tell.
func (r *retained) has(name, version []byte) bool {
	h, ok := parseHash(version)
	if !ok || h < minHash {
		return false
	}
	old, ok := r.hashes[string(name)]
	return ok && old == h
}

// minHash is the smallest version that is taken for a hash of the content. Smaller numbers may be counters, which some
// server could begin anew.
const minHash = 1 << 32

// parseHash reads a version of at most 16 hexadecimal digits. It takes only what strconv.FormatUint would write, so that the
// version can be given back as it came.
func parseHash(version []byte) (uint64, bool) {
	if len(version) == 0 || len(version) > 16 || version[0] == '0' && len(version) > 1 {
		return 0, false
	}
	var h uint64
	for _, c := range version {
		switch {
		case '0' <= c && c <= '9':
			h = h<<4 | uint64(c-'0')
		case 'a' <= c && c <= 'f':
			h = h<<4 | uint64(c-'a'+10)
		default:
			return 0, false
		}
	}
	return h, true
}

// claims returns what a new stream claims to have, as far as it fits into budget bytes of a request, and the names of
// which it does not speak.
func (r *retained) claims(budget int) (versions map[string]string, unclaimed map[string]struct{}) {
	if r.len() == 0 {
		return nil, nil
	}
	versions = make(map[string]string, min(r.len(), budget/48))
	add := func(name, version string) {
		budget -= claimSize(name, version)
		if budget >= 0 {
			versions[name] = version
			return
		}
		if unclaimed == nil {
			unclaimed = make(map[string]struct{})
		}
		unclaimed[name] = struct{}{}
	}
	for name, version := range r.others {
		add(name, version)
	}
	for name, h := range r.hashes {
		add(name, strconv.FormatUint(h, 16))
	}
	return versions, unclaimed
}

// claimSize is at least the bytes that one name and version take in a request: two tags and two lengths within a tag and a
// length.
func claimSize(name, version string) int { return len(name) + len(version) + 16 }

// size is at least the bytes that all claims take in a request.
func (r *retained) size() int {
	n := 0
	for name, version := range r.others {
		n += claimSize(name, version)
	}
	for name := range r.hashes {
		n += claimSize(name, "0123456789abcdef")
	}
	return n
}
