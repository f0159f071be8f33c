// Package telemetry owns the machinery behind what the process tells about
// itself: the meter provider, the exposition for Prometheus, the push by OTLP,
// and the families of the build, the process and the Go runtime. It imports
// nothing of proxy; cmd sets it up first, hands meters to whoever counts, and
// shuts it down last.
//
//	packages ── metric.Meter ─► meter provider ─► Prometheus exporter ─┐
//	                                          └─► OTLP push (optional) │
//	               Go and process collectors ─► registry ◄─────────────┘
//	                                               └─► Handler ─► scrape
//
// Instruments carry the names that PromQL sees, so neither way of export
// changes them. A scrape gathers the registry, which makes the exporter collect
// the instruments, and writes the families in the form that the reader asks
// for.
//
// The exporter and the registry cost about 130 allocations and 15 µs for each
// series of 27 labels. They are garbage at once: [sharing] keeps what lives
// until it is written to about a tenth of it.
package telemetry
