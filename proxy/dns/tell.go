package dns

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/miekg/dns"

	"ztunnel/proxy/workload"
)

// forwarded counts and logs a query that was not for the mesh. r is nil if it was
// handed on whole.
func (s *Server) forwarded(q *question, over transport, own *workload.Workload, r *reply, err error, took time.Duration) {
	result, answers := "forwarded", 0
	if err == nil && r != nil {
		answers = r.answers()
		if r.code != dns.RcodeSuccess {
			err = errors.New(dns.RcodeToString[r.code])
		} else if answers == 0 {
			err = errors.New("no records")
		}
	}
	s.series(own, q.qtype, over).forwarded(took, err != nil, s.config.Metrics)
	if err != nil {
		result = "forwarding failed (" + err.Error() + ")"
		answers = 0
	}
	s.log(q, own, result, answers)
}

// log writes the line of a query.
func (s *Server) log(q *question, own *workload.Workload, result string, endpoints int) {
	log := s.config.Queries
	if log == nil || !log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	pod, namespace := unknown, unknown
	if own != nil {
		pod, namespace = own.Name, own.Namespace
	}
	log.LogAttrs(context.Background(), slog.LevelDebug, "",
		slog.String("src.workload", pod), slog.String("src.namespace", namespace), slog.String("query", dns.Type(q.qtype).String()),
		slog.String("domain", string(q.name.text)+"."), slog.String("result", result), slog.Int("endpoints", endpoints))
}
