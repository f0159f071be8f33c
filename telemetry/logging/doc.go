// Package logging makes the log of the process: slog handlers that write the
// text and the JSON lines of Istio's ztunnel, filters that can be changed at
// run time, and a queue between the callers and the output.
//
// A line is formatted by its caller into a pooled buffer, copied into the
// queue, and written by one goroutine (Run) in batches:
//
//	*slog.Logger -> handler (level check, format) -> queue -> Run -> Output
//
// The queue is bounded. When the output stalls, lines of the scopes access and
// dns are dropped and counted at once; all others wait for a moment, then they
// are dropped and counted too. So a reader that stops reading the log never
// stops the data path, as it does in the reference.
//
// The package does not decide what is logged, and it knows no other package of
// this module. cmd/ztunnel makes the one Logging of the process and hands out
// its loggers.
package logging
