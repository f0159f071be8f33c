package hbone

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	"github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"
	xhttp2 "golang.org/x/net/http2"
)

// h2specFailures are the tests of h2spec that our server fails, each with the
// reason. The test fails too if one of them passes.
var h2specFailures = map[string]string{}

// h2specTests are all 145 and the one that only strict servers pass.
const h2specTests = 146

// h2spec asks like a browser. What the engine leaves to a handler is done by
// the one here: bodies are answered, and their length is compared with what was
// declared. The handler of the mesh takes CONNECT only, which has no such length.
func h2specHandler(_ context.Context, s *Stream) {
	if s.Accept(nil) != nil {
		return
	}
	if _, err := io.WriteString(s, "hello"); err != nil {
		return
	}
	n, err := io.Copy(io.Discard, s)
	if err != nil {
		return
	}
	if length := s.Request().Header.Get("content-length"); length != "" && length != strconv.FormatInt(n, 10) {
		s.Reset(xhttp2.ErrCodeProtocol)
		return
	}
	_ = s.CloseWrite()
}

// h2specServer serves on the loopback interface and returns its port.
func h2specServer(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				sc, err := Server(ctx, nc, serverTLS(), &Config{MaxFrameSize: minMaxFrame}) // h2spec assumes it in one place
				if err == nil {
					_ = sc.Serve(ctx, h2specHandler)
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); cancel(); all.Wait() })
	return ln.Addr().(*net.TCPAddr).Port
}

// The server conforms to RFC 9113 and RFC 7541 as far as h2spec can tell.
func TestH2spec(t *testing.T) {
	cfg := &config.Config{
		Host: "127.0.0.1", Port: h2specServer(t), Path: "/", Timeout: 2 * time.Second,
		MaxHeaderLen: 4000, Strict: true, TLS: true, Insecure: true,
	}
	ran := 0
	t.Run("all", func(t *testing.T) {
		for _, group := range []*spec.TestGroup{generic.Spec(), http2.Spec(), hpack.Spec()} {
			ran += h2specGroup(t, cfg, group)
		}
	})
	if ran != h2specTests {
		t.Errorf("%d tests ran, want %d", ran, h2specTests)
	}
	for name := range h2specFailures {
		t.Errorf("there is no test %s", name)
	}
}

// h2specGroup runs a group of tests and returns how many they are.
func h2specGroup(t *testing.T, cfg *config.Config, group *spec.TestGroup) int {
	ran := 0
	for i, tc := range append(group.Tests, group.StrictTests...) {
		name := fmt.Sprintf("%s/%d", group.ID(), i+1)
		ran++
		why := h2specFailures[name]
		delete(h2specFailures, name)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := spec.Dial(cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := tc.Run(cfg, conn); (err != nil) != (why != "") {
				t.Errorf("%s: %v, want a failure: %q\n%s", tc.Desc, err, why, tc.Requirement)
			}
		})
	}
	for _, g := range group.Groups {
		ran += h2specGroup(t, cfg, g)
	}
	return ran
}
