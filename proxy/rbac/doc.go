// Package rbac decides whether an inbound connection is allowed: it owns the
// authorization policies in force ([Set]), how one policy matches one
// connection, and the order of evaluation (deny before allow, dry-run policies
// only logged). It also owns the principal patterns of the telemetry readers
// ([Principals]), which follow the same rules.
//
// It does not fetch policies (the control-plane client and the local
// configuration do, and call [Set.Apply] or [Set.Replace]), does not know
// workloads beyond the two facts in [Target], and does not close connections:
// the listeners re-ask [Set.Authorize] when [Set.Changed] fires.
//
//	local file / control plane                  inbound listeners
//	         │ Replace, Apply                        │ Authorize
//	         ▼                                       ▼
//	    compile ──► immutable snapshot ◄── atomic pointer, no lock
package rbac
