package control

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// maxToken bounds what is decoded of a client's token, bytes.
const maxToken = 4 << 10

// A caller is whom a token stands for.
type caller struct {
	Namespace      string `json:"namespace"`
	ServiceAccount string `json:"serviceAccount"`
	Node           string `json:"node,omitempty"`
}

// tokens makes and checks bearer tokens. They have the form of those of
// Kubernetes, a JWT, and are valid as long as the key exists.
type tokens struct {
	key []byte
}

var errToken = errors.New("not a token of this control plane")

func newTokens() tokens {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails
	return tokens{key: key}
}

// tokenHeader is {"alg":"HS256","typ":"JWT"}.
const tokenHeader = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"

func (t tokens) make(c caller) string {
	claims, err := json.Marshal(c)
	if err != nil {
		panic(fmt.Sprintf("encode claims: %v", err)) // strings always can be
	}
	signed := tokenHeader + "." + base64.RawURLEncoding.EncodeToString(claims)
	return signed + "." + t.sign(signed)
}

func (t tokens) sign(signed string) string {
	mac := hmac.New(sha256.New, t.key)
	_, _ = mac.Write([]byte(signed)) // never fails
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// check returns whom a token stands for. Its error says nothing of the token.
func (t tokens) check(token string) (caller, error) {
	end := strings.LastIndexByte(token, '.')
	if len(token) > maxToken || end < 0 {
		return caller{}, errToken
	}
	signed := token[:end]
	if !hmac.Equal([]byte(token[end+1:]), []byte(t.sign(signed))) {
		return caller{}, errToken
	}
	var c caller
	claims, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(signed, tokenHeader+"."))
	if err != nil || json.Unmarshal(claims, &c) != nil {
		return caller{}, errToken
	}
	return c, nil
}

// Token returns a bearer token, without a line end, for what runs with a service
// account. If it names a node, it is that node's ztunnel: it may have the
// certificates of all identities with a workload on the node. Without a node it
// may have its own only.
func (p *Plane) Token(namespace, serviceAccount, node string) string {
	return p.tokens.make(caller{Namespace: namespace, ServiceAccount: serviceAccount, Node: node})
}
