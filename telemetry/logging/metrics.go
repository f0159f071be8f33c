package logging

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"ztunnel/telemetry/catalog"
)

// Register makes the metrics of the log known to a meter: lines that were
// queued, lines that were dropped (reason queue_full, stalled or closed), lines
// that wait, and failed writes.
func (l *Logging) Register(meter metric.Meter) error {
	lines, err1 := meter.Int64ObservableCounter(catalog.LogLines, metric.WithDescription(catalog.Help(catalog.LogLines)))
	dropped, err2 := meter.Int64ObservableCounter(catalog.LogLinesDropped, metric.WithDescription(catalog.Help(catalog.LogLinesDropped)))
	failed, err3 := meter.Int64ObservableCounter(catalog.LogWriteErrors, metric.WithDescription(catalog.Help(catalog.LogWriteErrors)))
	length, err4 := meter.Int64ObservableGauge(catalog.LogQueueLength, metric.WithDescription(catalog.Help(catalog.LogQueueLength)))
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return fmt.Errorf("create metrics of the log: %w", err)
	}
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for _, s := range l.allScopes() {
			s.observe(o, lines, dropped)
		}
		o.ObserveInt64(failed, int64(l.queue.writeErrors.Load()))
		o.ObserveInt64(length, int64(l.queue.length()))
		return nil
	}, lines, dropped, failed, length)
	if err != nil {
		return fmt.Errorf("register metrics of the log: %w", err)
	}
	return nil
}

func (l *Logging) allScopes() []*scope {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.scopes))
}

// observe reports what the scope has. Of lines that a full queue drops at once
// it also reports none, so that the first is an increase.
func (s *scope) observe(o metric.Observer, lines, dropped metric.Int64Observable) {
	name := attribute.String("scope", s.name)
	for level := range s.lines {
		if n := s.lines[level].Load(); n > 0 {
			o.ObserveInt64(lines, int64(n), metric.WithAttributes(name, attribute.String("level", levelNames[level])))
		}
	}
	for reason := range s.dropped {
		if n := s.dropped[reason].Load(); n > 0 || (s.lossy && reason == dropFull) {
			o.ObserveInt64(dropped, int64(n), metric.WithAttributes(name, attribute.String("reason", reasonNames[reason])))
		}
	}
}
