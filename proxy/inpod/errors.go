package inpod

import "errors"

// protocolError is a message that no agent sends that speaks this protocol.
type protocolError struct{ text string }

func (e *protocolError) Error() string { return "protocol error: " + e.text }

var (
	errNoInfo         = &protocolError{"workload_info is required but not present"}
	errKeepLate       = &protocolError{"pod keep received after snapshot"}
	errSecondSnapshot = &protocolError{"pod snapshot received already"}
)

// announceError is a session that ended before our first message was sent.
type announceError struct{ err error }

func (e *announceError) Error() string {
	return "could not announce to node agent: " + e.err.Error()
}
func (e *announceError) Unwrap() error { return e.err }

// startError is a pod that cannot be served now. It is tried again later.
type startError struct{ err error }

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

// readError is a message that cannot be understood. The connection is made anew.
type readError struct{ err error }

func (e *readError) Error() string { return "error receiving message: " + e.err.Error() }
func (e *readError) Unwrap() error { return e.err }

// What is wrong with a packet.
var (
	errTruncated  = errors.New("received truncated message")
	errNoPayload  = errors.New("no payload")
	errNoFile     = errors.New("No control message")
	errExtraFile  = errors.New("Unexpected control message")
	errTooManyPod = errors.New("too many pods on this node")
)
