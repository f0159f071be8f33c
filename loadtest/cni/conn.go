package cni

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"ztunnel/proxy/api/zdsapi"
)

// maxAnswer is the largest packet that a ztunnel may send, bytes.
const maxAnswer = 1024

// A conn is the connection of one ztunnel. Its goroutine alone uses the socket.
type conn struct {
	agent    *Agent
	socket   *net.UnixConn
	requests chan asked
	done     chan struct{} // closed when it has ended

	synced bool // under the agent's lock
}

// A request is what a ztunnel is told: of one pod, or that that was all.
type request struct {
	add, del string // uids
}

// asked is a request of another goroutine.
type asked struct {
	request
	result chan<- error // of one element
}

// ask has the connection's goroutine send a request and returns the answer. The
// error is [ErrNoProxy] if the connection ended before there was one. Where ctx
// ends first, the request may still be sent.
func (c *conn) ask(ctx context.Context, r request) error {
	result := make(chan error, 1)
	select {
	case <-ctx.Done():
		return fmt.Errorf("wait for ztunnel: %w", ctx.Err())
	case <-c.done:
		return ErrNoProxy
	case c.requests <- asked{r, result}:
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("wait for ztunnel's answer: %w", ctx.Err())
	case err := <-result:
		return err
	}
}

// talk serves one connection until it or ctx ends.
func (a *Agent) talk(ctx context.Context, socket *net.UnixConn) {
	defer socket.Close()
	stop := context.AfterFunc(ctx, func() { socket.Close() })
	defer stop()
	c := &conn{agent: a, socket: socket, requests: make(chan asked), done: make(chan struct{})}
	defer close(c.done)

	err := c.hello()
	var uids []string
	if err == nil {
		uids, err = a.join(c)
	}
	if err != nil {
		if ctx.Err() == nil {
			a.log.Warn("connection of ztunnel rejected", slog.Any("error", err))
			a.count(func(s *Stats) { s.Rejected++ })
		}
		return
	}
	defer a.leave(c)
	a.log.Info("ztunnel connected", slog.Int("pods", len(uids)))
	if err = c.snapshot(uids); err == nil {
		err = c.loop(ctx)
	}
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, io.EOF):
		a.log.Info("ztunnel left")
	default:
		a.log.Warn("connection of ztunnel broken", slog.Any("error", err))
		a.count(func(s *Stats) { s.Broken++ })
	}
}

// join makes c the newest connection and returns the pods of its snapshot. All
// that come later are told of through it.
func (a *Agent) join(c *conn) ([]string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.conns) >= maxConnections {
		return nil, fmt.Errorf("%d ztunnels are connected", maxConnections)
	}
	a.conns = append(a.conns, c)
	a.stats.Connects++
	return slices.Clone(a.order), nil
}

func (a *Agent) leave(c *conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conns = slices.DeleteFunc(a.conns, func(other *conn) bool { return other == c })
}

func (a *Agent) count(f func(*Stats)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f(&a.stats)
}

// hello reads what a ztunnel says first.
func (c *conn) hello() error {
	packet, err := c.read()
	if err != nil {
		return fmt.Errorf("read hello: %w", err)
	}
	var m zdsapi.ZdsHello
	if err := proto.Unmarshal(packet, &m); err != nil {
		return fmt.Errorf("decode hello: %w", err)
	}
	if m.GetVersion() != zdsapi.Version_V1 {
		return fmt.Errorf("hello of version %d", m.GetVersion())
	}
	return nil
}

// snapshot tells of all pods, and that these are all. That a pod is refused
// changes nothing: the ztunnel retries by itself.
func (c *conn) snapshot(uids []string) error {
	for _, uid := range uids {
		var refused *RefusedError
		if err := c.tell(request{add: uid}); err != nil && !errors.As(err, &refused) {
			return fmt.Errorf("snapshot: %w", err)
		}
	}
	if err := c.tell(request{}); err != nil {
		return fmt.Errorf("end snapshot: %w", err)
	}
	c.agent.mu.Lock()
	defer c.agent.mu.Unlock()
	c.synced = true
	return nil
}

// loop sends what is asked for, one after the other, and probes the connection
// when nothing is. Its error is never nil.
func (c *conn) loop(ctx context.Context) error {
	idle := time.NewTimer(c.agent.times.idle)
	defer idle.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case a := <-c.requests:
			err := c.tell(a.request)
			var refused *RefusedError
			if err != nil && !errors.As(err, &refused) {
				a.result <- fmt.Errorf("%w: %w", ErrNoProxy, err)
				return err
			}
			a.result <- err
		case <-idle.C:
			if err := c.probe(); err != nil {
				return err
			}
		}
		idle.Reset(c.agent.times.idle)
	}
}

// tell sends a request and reads its answer. An error that is no [*RefusedError]
// makes the connection useless.
func (c *conn) tell(r request) error {
	message, netns, err := c.message(r)
	if message == nil || err != nil {
		return err
	}
	if netns != nil {
		defer netns.Close()
	}
	err = c.exchange(message, netns)
	var refused *RefusedError
	switch {
	case errors.As(err, &refused):
		c.agent.log.Warn("request refused by ztunnel",
			slog.String("add", r.add), slog.String("del", r.del), slog.String("reason", refused.Reason))
		c.agent.count(func(s *Stats) { s.Refused++ })
	case err != nil:
	case r.add != "":
		c.agent.count(func(s *Stats) { s.Adds++ })
	case r.del != "":
		c.agent.count(func(s *Stats) { s.Dels++ })
	}
	return err
}

func (c *conn) exchange(message *zdsapi.WorkloadRequest, netns *os.File) error {
	if err := c.write(message, netns); err != nil {
		return err
	}
	packet, err := c.read()
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return verdict(packet)
}

// verdict is what an answer says: nil, a [*RefusedError], or that it is none.
func verdict(packet []byte) error {
	var answer zdsapi.WorkloadResponse
	if err := proto.Unmarshal(packet, &answer); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	if answer.GetAck() == nil {
		return errors.New("answer is no ack")
	}
	if reason := answer.GetAck().GetError(); reason != "" {
		return &RefusedError{Reason: reason}
	}
	return nil
}

// message returns what to send, nil if there is no such pod any more, and the
// namespace to send with it, which the caller closes.
func (c *conn) message(r request) (*zdsapi.WorkloadRequest, *os.File, error) {
	switch {
	case r.add != "":
		pod, ok, err := c.agent.lookup(r.add)
		if !ok || err != nil {
			return nil, nil, err
		}
		return &zdsapi.WorkloadRequest{Payload: &zdsapi.WorkloadRequest_Add{Add: &zdsapi.AddWorkload{
			Uid: pod.UID,
			WorkloadInfo: &zdsapi.WorkloadInfo{
				Name: pod.Name, Namespace: pod.Namespace, ServiceAccount: pod.ServiceAccount,
			},
		}}}, pod.NetNS, nil
	case r.del != "":
		return &zdsapi.WorkloadRequest{Payload: &zdsapi.WorkloadRequest_Del{Del: &zdsapi.DelWorkload{Uid: r.del}}}, nil, nil
	default:
		return &zdsapi.WorkloadRequest{Payload: &zdsapi.WorkloadRequest_SnapshotSent{SnapshotSent: &zdsapi.SnapshotSent{}}}, nil, nil
	}
}

// write sends one packet, with a descriptor if there is one.
func (c *conn) write(m proto.Message, file *os.File) error {
	packet, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	if err := c.socket.SetWriteDeadline(time.Now().Add(c.agent.times.answer)); err != nil {
		return fmt.Errorf("set write deadline: %w", err)
	}
	if file == nil {
		_, _, err = c.socket.WriteMsgUnix(packet, nil, nil)
	} else {
		err = c.writeWith(packet, file)
	}
	if err != nil {
		return fmt.Errorf("send request: %w", err)
	}
	return nil
}

func (c *conn) writeWith(packet []byte, file *os.File) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Control(func(fd uintptr) {
		_, _, sendErr = c.socket.WriteMsgUnix(packet, unix.UnixRights(int(fd)), nil)
	})
	return errors.Join(err, sendErr)
}

// read reads one packet within the deadline.
func (c *conn) read() ([]byte, error) {
	if err := c.socket.SetReadDeadline(time.Now().Add(c.agent.times.answer)); err != nil {
		return nil, fmt.Errorf("set read deadline: %w", err)
	}
	packet := make([]byte, maxAnswer)
	n, err := c.receive(packet)
	return packet[:n], err
}

// receive reads one packet. The end of the connection is [io.EOF].
func (c *conn) receive(packet []byte) (int, error) {
	n, _, flags, _, err := c.socket.ReadMsgUnix(packet, nil)
	switch {
	case err != nil:
		return 0, err
	case flags&unix.MSG_TRUNC != 0:
		return 0, fmt.Errorf("packet of more than %d bytes", len(packet))
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// probe finds out whether the ztunnel is still there.
func (c *conn) probe() error {
	if err := c.socket.SetReadDeadline(time.Now().Add(c.agent.times.probe)); err != nil {
		return fmt.Errorf("set read deadline: %w", err)
	}
	_, err := c.receive(make([]byte, maxAnswer))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil
	case err == nil:
		return errors.New("ztunnel spoke unasked")
	default:
		return err
	}
}
