package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
)

// Set by the linker, see the Makefile. What is empty is taken from the build
// information that the go command leaves in the binary.
var (
	buildVersion  string
	buildRevision string
	buildStatus   string
)

// cryptoProvider is what TLS and signatures come from.
const cryptoProvider = "go/crypto"

// build says what binary this is, under the keys of the reference.
type build struct {
	Version        string `json:"version"`
	GitRevision    string `json:"gitRevision"`
	RustVersion    string `json:"rustVersion"` // empty; readers expect the key
	GoVersion      string `json:"goVersion"`
	BuildProfile   string `json:"buildProfile"`
	BuildStatus    string `json:"buildStatus"`
	IstioVersion   string `json:"istioVersion"`
	CryptoProvider string `json:"cryptoProvider"`
}

// String is the form of the reference.
func (b build) String() string {
	return fmt.Sprintf("version.BuildInfo{Version:%q, GitRevision:%q, RustVersion:%q, BuildProfile:%q, BuildStatus:%q, IstioVersion:%q, CryptoProvider:%q}",
		b.Version, b.GitRevision, b.RustVersion, b.BuildProfile, b.BuildStatus, b.IstioVersion, b.CryptoProvider)
}

func buildInfo() build {
	b := build{
		Version: buildVersion, GitRevision: buildRevision, BuildStatus: buildStatus, GoVersion: runtime.Version(),
		BuildProfile: "release", IstioVersion: os.Getenv("ISTIO_META_ISTIO_VERSION"), CryptoProvider: cryptoProvider,
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b.orUnknown()
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && b.GitRevision == "":
			b.GitRevision = s.Value
		case s.Key == "vcs.modified" && b.BuildStatus == "" && s.Value == "true":
			b.BuildStatus = "Modified"
		}
	}
	if b.BuildStatus == "" && b.GitRevision != "" {
		b.BuildStatus = "Clean"
	}
	return b.orUnknown()
}

func (b build) orUnknown() build {
	for _, field := range []*string{&b.Version, &b.GitRevision, &b.BuildStatus, &b.IstioVersion} {
		if *field == "" {
			*field = "unknown"
		}
	}
	return b
}
