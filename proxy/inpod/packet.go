package inpod

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"ztunnel/proxy/api/zdsapi"
)

const (
	// maxPacket is the size of the receive buffers of both sides. Longer messages arrive cut off.
	maxPacket = 1024
	// maxAnswer is the longest text of an answer: the two messages around it take at most three bytes each.
	maxAnswer = maxPacket - 6
	// controlSpace holds the descriptors of one message; the kernel closes those for which there is no room.
	controlSpace = 64
)

// packetConn is what a session needs of a *net.UnixConn.
type packetConn interface {
	ReadMsgUnix(b, control []byte) (n, controls, flags int, addr *net.UnixAddr, err error)
	Write(b []byte) (int, error)
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
	Close() error
}

// message is one message of the agent. Who has one owns netns.
type message struct {
	*zdsapi.WorkloadRequest
	netns *os.File // of an addition, else nil
}

// close closes the namespace, unless it was taken out.
func (m *message) close() {
	if m.netns != nil {
		_ = m.netns.Close()
	}
}

// read reads one message. The error is io.EOF at the end of the connection, a readError if there was a message, or that of the
// connection. Descriptors are owned before anything is looked at, so that none is left open.
func read(conn packetConn, log *slog.Logger) (*message, error) {
	var buf [maxPacket]byte
	var control [controlSpace]byte
	n, controls, flags, _, err := conn.ReadMsgUnix(buf[:], control[:])
	files, filesErr := takeFiles(control[:controls], log)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err == nil {
		err = filesErr
	}
	var m *message
	if err == nil {
		m, err = decode(buf[:n], flags, files)
	}
	if err == nil {
		return m, nil
	}
	for _, f := range files {
		_ = f.Close()
	}
	if errors.Is(err, io.EOF) {
		return nil, io.EOF
	}
	if _, transport := errors.AsType[*net.OpError](err); transport {
		return nil, err
	}
	return nil, &readError{err}
}

// takeFiles owns all descriptors that came with a message, which are close-on-exec already. It returns them also with an
// error.
func takeFiles(control []byte, log *slog.Logger) ([]*os.File, error) {
	if len(control) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, fmt.Errorf("parse control messages: %w", err)
	}
	var files []*os.File
	for i := range messages {
		h := &messages[i].Header
		if h.Level != unix.SOL_SOCKET || h.Type != unix.SCM_RIGHTS {
			log.Warn("Unexpected control message", "level", h.Level, "type", h.Type)
			continue
		}
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return files, fmt.Errorf("parse descriptors: %w", err)
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "netns"))
		}
	}
	return files, nil
}

// decode checks a packet. The files stay the caller's if there is an error.
func decode(data []byte, flags int, files []*os.File) (*message, error) {
	if len(files) > 1 {
		return nil, fmt.Errorf("Expected 1 FD, got %d", len(files))
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return nil, errTruncated
	}
	request := new(zdsapi.WorkloadRequest)
	if err := proto.Unmarshal(data, request); err != nil {
		return nil, fmt.Errorf("decode message: %w", err)
	}
	m := &message{WorkloadRequest: request}
	switch request.Payload.(type) {
	case *zdsapi.WorkloadRequest_Add:
		if len(files) == 0 {
			return nil, errNoFile
		}
		m.netns = files[0]
	case *zdsapi.WorkloadRequest_Keep, *zdsapi.WorkloadRequest_Del, *zdsapi.WorkloadRequest_SnapshotSent:
		if len(files) > 0 {
			return nil, errExtraFile
		}
	default:
		return nil, errNoPayload
	}
	return m, nil
}

// encodeAnswer is the answer to one message: "" accepts it. A text that the agent's buffer has no room for is cut off.
func encodeAnswer(text string) ([]byte, error) {
	return proto.Marshal(&zdsapi.WorkloadResponse{
		Payload: &zdsapi.WorkloadResponse_Ack{Ack: &zdsapi.Ack{Error: fit(text)}},
	})
}

// fit makes a text one that an answer can carry: valid UTF-8 of at most maxAnswer bytes.
func fit(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= maxAnswer {
		return text
	}
	end := maxAnswer
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end]
}
