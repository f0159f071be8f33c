package dns

import "slices"

// Bounds of RFC 1035.
const (
	maxName  = 255 // bytes of a name on the wire
	maxLabel = 63
)

// name is a domain name. Its parse fills it anew and keeps its memory, so one
// name serves many queries.
type name struct {
	wire   []byte // as it was written, uncompressed, with the root
	text   []byte // in lower case, escaped as in a zone file, without the final dot
	starts []int  // of the labels in text
}

// parse reads the uncompressed name at the beginning of b. It returns its
// length, 0 if there is none.
func (n *name) parse(b []byte) int {
	n.text, n.starts = n.text[:0], n.starts[:0]
	for at := 0; at < len(b) && at < maxName; {
		length := int(b[at])
		if length == 0 {
			n.wire = append(n.wire[:0], b[:at+1]...)
			return at + 1
		}
		if length > maxLabel || at+1+length > len(b) {
			return 0
		}
		if len(n.starts) > 0 {
			n.text = append(n.text, '.')
		}
		n.starts = append(n.starts, len(n.text))
		n.text = appendLabel(n.text, b[at+1:at+1+length])
		at += 1 + length
	}
	return 0
}

// appendLabel appends a label in lower case as text.
func appendLabel(text, label []byte) []byte {
	for _, c := range label {
		switch {
		case 'A' <= c && c <= 'Z':
			text = append(text, c+'a'-'A')
		case c == '.' || c == ' ' || c == '\'' || c == '@' || c == ';' || c == '(' || c == ')' || c == '"' || c == '\\':
			text = append(text, '\\', c)
		case c < ' ' || c > '~':
			text = append(text, '\\', '0'+c/100, '0'+c/10%10, '0'+c%10)
		default:
			text = append(text, c)
		}
	}
	return text
}

// labels is how many labels the name has, without the root.
func (n *name) labels() int { return len(n.starts) }

// first is the text of the first k labels.
func (n *name) first(k int) []byte {
	if k == len(n.starts) {
		return n.text
	}
	return n.text[:max(n.starts[k]-1, 0)]
}

// label is the text of one label.
func (n *name) label(i int) []byte {
	return n.first(i + 1)[n.starts[i]:]
}

// wireLength is the length of the first k labels on the wire, without a root.
func (n *name) wireLength(k int) int {
	at := 0
	for range k {
		at += 1 + int(n.wire[at])
	}
	return at
}

// trim is how many labels are left of the name without a domain at its end, 0 if
// it does not end in it or is nothing else.
func (n *name) trim(domain string) int {
	cut := len(n.text) - len(domain)
	if domain == "" || cut < 2 || string(n.text[cut:]) != domain {
		return 0
	}
	k, found := slices.BinarySearch(n.starts, cut)
	if !found {
		return 0
	}
	return k
}

// appendLower appends bytes of a name on the wire in lower case. Lengths of
// labels are below the letters.
func appendLower(dst, wire []byte) []byte {
	for _, c := range wire {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst
}

// isLower reports whether a name on the wire has no capital letter.
func isLower(wire []byte) bool {
	return !slices.ContainsFunc(wire, func(c byte) bool { return 'A' <= c && c <= 'Z' })
}
