package hbone

// Field is one header field. The name is in lower case.
type Field struct{ Name, Value string }

// Header is a list of header fields in the order of the wire, without
// pseudo-fields.
type Header []Field

// Get returns the first value of a field, "" if there is none. The name is
// compared exactly and must be in lower case.
func (h Header) Get(name string) string {
	for i := range h {
		if h[i].Name == name {
			return h[i].Value
		}
	}
	return ""
}

// Values returns all values of a field in their order.
func (h Header) Values(name string) []string {
	var values []string
	for i := range h {
		if h[i].Name == name {
			values = append(values, h[i].Value)
		}
	}
	return values
}

// Request is what opens a stream.
type Request struct {
	// Method is CONNECT, or what a client sent instead: such a stream must be
	// rejected. Empty means CONNECT in [ClientConn.Open].
	Method string
	// Authority is the target, "" if the client sent none.
	Authority string
	// Header holds the other fields, to be read only.
	Header Header
}
