package inpod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/protobuf/proto"

	"ztunnel/proxy/api/zdsapi"
)

const (
	// writeTimeout bounds how long the agent may take to take a message; it gives up after as long itself.
	writeTimeout = 5 * time.Second
	// retryPending is the time between attempts to start pods that could not be started.
	retryPending = 5 * time.Second
)

// session is one connection to the agent. Everything happens on one goroutine: a message is read, obeyed and answered before
// the next one is read.
type session struct {
	*Manager
	conn    packetConn
	handled int       // messages answered
	retry   time.Time // when pending pods are tried again; zero if there are none
}

// run serves the connection until it ends, which is no error, or ctx does.
func (s *session) run(ctx context.Context) error {
	s.states.newSession()
	if err := s.send(proto.Marshal(&zdsapi.ZdsHello{Version: zdsapi.Version_V1})); err != nil {
		return &announceError{err}
	}
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		m, err := s.next(ctx)
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			if m != nil {
				m.close()
			}
			return nil
		}
		if err == nil {
			err = s.serve(ctx, m)
			m.close()
		} else if _, unreadable := errors.AsType[*readError](err); unreadable {
			s.log.Error("failed to read message: " + errors.Unwrap(err).Error())
			s.metrics.count("unreadable", err)
			if sendErr := s.answer("failure to read message : " + errors.Unwrap(err).Error()); sendErr != nil {
				err = sendErr
			}
		}
		if err != nil {
			return err
		}
	}
}

// next returns the next message. Meanwhile it tries pending pods again when their time has come; the deadline of a read that
// waits for that takes nothing from the socket, so no message is lost.
func (s *session) next(ctx context.Context) (*message, error) {
	for {
		if err := s.conn.SetReadDeadline(s.retry); err != nil {
			return nil, fmt.Errorf("prepare to read: %w", err)
		}
		if err := ctx.Err(); err != nil { // after the deadline was set: its end sets one too
			return nil, err
		}
		m, err := read(s.conn, s.log)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return m, err
		}
		if s.retry.IsZero() || time.Now().Before(s.retry) {
			continue // ctx has ended
		}
		s.retryPods(ctx)
	}
}

// retryPods starts pending pods, and is ready if that leaves none.
func (s *session) retryPods(ctx context.Context) {
	s.states.retryPending(ctx)
	s.retry = time.Time{}
	if s.states.hasPending() {
		s.schedule()
		return
	}
	s.setReady(s.states.ready() && ctx.Err() == nil)
}

// schedule plans the next attempt to start pending pods, unless there is one already.
func (s *session) schedule() {
	if s.retry.IsZero() {
		s.log.Info("scheduling retry", "uids", s.states.pendingUIDs())
		s.retry = time.Now().Add(retryPending)
	}
}

// serve obeys one message and answers it. An error ends the session.
func (s *session) serve(ctx context.Context, m *message) error {
	err := s.states.obey(ctx, m)
	s.metrics.count(kind(m), err)
	s.handled++
	if err == nil {
		s.setReady(s.states.ready() && ctx.Err() == nil)
		return s.answer("")
	}
	if start, ok := errors.AsType[*startError](err); ok {
		s.log.Error("failed to start proxy: "+start.Error(), "uid", m.GetAdd().GetUid())
		if s.states.hasPending() {
			s.schedule()
		}
		return s.answer("failure to start proxy : " + start.Error())
	}
	s.log.Error("failed to process message: " + err.Error())
	if sendErr := s.answer("failure to process message : " + err.Error()); sendErr != nil {
		s.log.Warn("the node agent was not told: " + sendErr.Error())
	}
	return err
}

func (s *session) answer(text string) error {
	if err := s.send(encodeAnswer(text)); err != nil {
		return fmt.Errorf("send the answer: %w", err)
	}
	return nil
}

// send writes one message, unless encoding it failed.
func (s *session) send(packet []byte, err error) error {
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	if err := s.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err = s.conn.Write(packet)
	return err
}

// kind is the value of the label type of a message.
func kind(m *message) string {
	switch m.Payload.(type) {
	case *zdsapi.WorkloadRequest_Add:
		return "add"
	case *zdsapi.WorkloadRequest_Keep:
		return "keep"
	case *zdsapi.WorkloadRequest_Del:
		return "del"
	}
	return "snapshot"
}
