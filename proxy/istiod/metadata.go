package istiod

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"google.golang.org/grpc/metadata"
)

// maxTokenFile bounds the file of the token, in bytes. A server takes less than that in all headers together.
const maxTokenFile = 64 << 10

// The headers of the token.
const (
	authorization = "authorization"
	clusterID     = "clusterid"
)

// Token authenticates us to the server. The zero Token is none.
type Token struct {
	// File has the token, and is read for each call: the kubelet replaces it from time to time. White space around it is
	// not part of it; the reference takes the file as it is, and a newline at its end fails every call.
	File string
	// Literal is the token itself, unless there is a File.
	Literal string
}

// read returns the token. No error contains any of it.
func (t *Token) read() (string, error) {
	token, what := strings.TrimSpace(t.Literal), "token"
	if t.File != "" {
		text, err := readFile(t.File, maxTokenFile)
		if err != nil {
			return "", fmt.Errorf("read token: %w", err)
		}
		if text = bytes.TrimSpace(text); len(text) == 0 {
			return "", errors.New("token file exists, but was empty")
		}
		token, what = string(text), "token file "+t.File
	}
	if !validValue(token) {
		return "", fmt.Errorf("%s: not a token: it has characters that no header may have", what)
	}
	return token, nil
}

// Context returns ctx with the metadata of a call, and reads the token for that. The error is about the token and does not
// contain it.
func (c *Channel) Context(ctx context.Context) (context.Context, error) {
	pairs := c.headers
	if c.cfg.Token != (Token{}) {
		token, err := c.cfg.Token.read()
		if err != nil {
			return nil, err
		}
		pairs = append(slices.Clip(pairs), authorization, "Bearer "+token)
	}
	return metadata.AppendToOutgoingContext(ctx, pairs...), nil
}

// fixedHeaders returns the metadata of every call but the token, as names and values in turns.
func fixedHeaders(cfg *Config) ([]string, error) {
	authenticated := cfg.Token != (Token{})
	var pairs []string
	for _, h := range cfg.Headers {
		name := strings.ToLower(h.Name)
		if !validName(name) {
			return nil, fmt.Errorf("invalid header name %q", h.Name)
		}
		if !validValue(h.Value) {
			return nil, fmt.Errorf("invalid value of header %s", h.Name)
		}
		if authenticated && (name == authorization || name == clusterID) {
			continue
		}
		pairs = append(pairs, name, h.Value)
	}
	if authenticated {
		if !validValue(cfg.ClusterID) {
			return nil, fmt.Errorf("invalid cluster id %q: it cannot be a header's value", cfg.ClusterID)
		}
		pairs = append(pairs, clusterID, cfg.ClusterID)
	}
	return pairs, nil
}

// validName reports whether a lower-case name is one that gRPC sends as metadata with a text as its value.
func validName(name string) bool {
	if name == "" || strings.HasPrefix(name, "grpc-") || strings.HasSuffix(name, "-bin") {
		return false
	}
	for i := range len(name) {
		switch b := name[i]; {
		case b >= 'a' && b <= 'z', b >= '0' && b <= '9', b == '-', b == '_', b == '.':
		default:
			return false
		}
	}
	return true
}

// validValue reports whether gRPC sends s as a value of metadata: printable ASCII.
func validValue(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// readFile reads a file that must not be larger than limit, in bytes.
func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("%s: larger than %d bytes", name, limit)
	}
	return text, nil
}
