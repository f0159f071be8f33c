package hbone

// PoolStats is a snapshot of a pool.
type PoolStats struct {
	// Idle and Active are the numbers of tunnels without and with streams,
	// including those that have left the pool and wait for their last stream.
	Idle, Active int
	// Streams is the number of streams on all of them.
	Streams int
	// Dials is the number of tunnels being made.
	Dials int
	// Hits counts requests that found a tunnel, Misses those that waited for a
	// dial. A repeated request counts twice.
	Hits, Misses uint64
}

// Stats returns the state of the pool now.
func (p *Pool) Stats() PoolStats {
	s := PoolStats{Hits: p.hits.Load(), Misses: p.misses.Load()}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.entries {
		e.mu.Lock()
		s.Dials += len(e.dials)
		for _, t := range e.tunnels {
			s.add(t)
		}
		e.mu.Unlock()
	}
	for t := range p.leaving {
		select {
		case <-t.conn.Done():
		default:
			s.add(t)
		}
	}
	return s
}

func (s *PoolStats) add(t *pooledTunnel) {
	n := t.conn.Active()
	s.Streams += n
	if n > 0 {
		s.Active++
	} else {
		s.Idle++
	}
}
