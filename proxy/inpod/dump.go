package inpod

import "maps"

// The states of the config dump.
const (
	Pending = "Pending" // to be served, but that failed; it is tried again
	Up      = "Up"
)

// State is one pod in the config dump, as istioctl and the reference have it.
type State struct {
	Info Info `json:"info"`
	// State is Pending or Up.
	State string `json:"state"`
	// Connections are those of the pod's proxy. There is no such key while the pod is pending.
	Connections any `json:"connections,omitempty"`
}

// Dump is the section workloadState of the config dump: all pods that are served or are to be, by uid. During a drain they
// are those that have not ended. It may be called at any time.
func (m *Manager) Dump() map[string]State {
	s := m.states
	dump := map[string]State{}
	s.mu.Lock()
	for uid, p := range s.pending {
		dump[uid] = State{Info: p.info, State: Pending}
	}
	up := maps.Clone(s.running)
	s.mu.Unlock()
	for uid, r := range up { // not under the lock: it may take a while
		dump[uid] = State{Info: r.info, State: Up, Connections: r.Connections()}
	}
	return dump
}
