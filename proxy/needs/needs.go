// Package needs says what a test cannot do without: a right or a program that
// not every machine has.
package needs

import (
	"os"
	"os/exec"
	"testing"
)

// Missing skips the test because of what is missing, or fails it in a build
// with the tag required, as CI's is. It does not return.
func Missing(t testing.TB, what string) {
	t.Helper()
	missing(t, what, required)
}

func missing(t testing.TB, what string, required bool) {
	t.Helper()
	if required {
		t.Fatal(what)
	}
	t.Skip(what)
}

// Root is for tests that make network namespaces or use what the kernel allows
// to CAP_NET_ADMIN only.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "this test needs root")
	}
}

// Promtool returns the path of promtool.
func Promtool(t testing.TB) string {
	t.Helper()
	return program(t, "promtool", "prometheus")
}

// Curl returns the path of curl.
func Curl(t testing.TB) string {
	t.Helper()
	return program(t, "curl", "curl")
}

// Dig returns the path of dig.
func Dig(t testing.TB) string {
	t.Helper()
	return program(t, "dig", "bind9-dnsutils")
}

// Nsupdate returns the path of nsupdate.
func Nsupdate(t testing.TB) string {
	t.Helper()
	return program(t, "nsupdate", "bind9-dnsutils")
}

// OpenSSL returns the path of openssl.
func OpenSSL(t testing.TB) string {
	t.Helper()
	return program(t, "openssl", "openssl")
}

// Getent returns the path of getent, which asks as all programs with glibc do.
func Getent(t testing.TB) string {
	t.Helper()
	return program(t, "getent", "libc-bin")
}

// program returns the path of a program that a Debian package has.
func program(t testing.TB, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, "this test needs "+name+" (Debian package "+pkg+")")
	}
	return path
}
