package config

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// otlpInputs are the OpenTelemetry variables that are combined.
type otlpInputs struct {
	disabled, insecure        bool
	exporters                 []string
	endpoint, metricsEndpoint string
}

// finishControl settles control plane, CA, roots, token and local state.
func (in *inputs) finishControl(pc proxyConfig) error {
	address := "https://localhost:15012"
	if in.kubernetes {
		address = "https://istiod.istio-system.svc:15012"
	}
	var err error
	if in.XDSAddress, err = endpoint(first(in.xdsAddress, pc.DiscoveryAddress, &address)); err != nil {
		name := "XDS_ADDRESS"
		if in.xdsAddress == nil {
			name = "discoveryAddress of the proxy configuration"
		}
		return fmt.Errorf("%s: %w", name, err)
	}
	if !in.FakeCA {
		if in.CAAddress, err = endpoint(first(in.caAddress, &address)); err != nil {
			return fmt.Errorf("CA_ADDRESS: %w", err)
		}
	}
	in.XDSRootCA, in.CARootCA = in.rootCA(in.xdsRoot), in.rootCA(in.caRoot)
	in.Auth = in.token()
	if in.LocalXDSPath != "" && in.LocalXDS != "" {
		return errors.New("invalid configuration: only one of LOCAL_XDS_PATH or LOCAL_XDS may be set")
	}
	return nil
}

// first returns the first string that is set; the last must be.
func first(candidates ...*string) string {
	i := slices.IndexFunc(candidates, func(s *string) bool { return s != nil })
	return *candidates[i]
}

// endpoint checks the URI of a server and gives it a scheme; "" stays.
func endpoint(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	full := text
	if !strings.Contains(text, "://") {
		full = "https://" + text
	}
	u, err := url.Parse(full)
	switch {
	case err != nil:
		return "", fmt.Errorf("invalid uri: %s", printable(text))
	case u.Scheme != "https" && u.Scheme != "http":
		return "", fmt.Errorf("invalid uri: %s (the scheme must be https or http)", printable(text))
	case u.Hostname() == "":
		return "", fmt.Errorf("invalid uri: %s (there must be a host)", printable(text))
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "", fmt.Errorf("invalid uri: %s (the port must be 1 to 65535)", printable(text))
		}
	}
	return full, nil
}

// rootCA says where root certificates come from. Other than in the reference a
// path whose file is missing stays a path: the file may come later.
func (in *inputs) rootCA(value string) RootCA {
	switch {
	case in.exists(value):
		return RootCA{Kind: RootFile, Path: value}
	case value == "SYSTEM":
		return RootCA{Kind: RootSystem}
	case value == "" || strings.Contains(value, "-----BEGIN"):
		return RootCA{Kind: RootInline, PEM: value}
	default:
		return RootCA{Kind: RootFile, Path: value}
	}
}

// token says what authenticates this process. A value that begins like a path
// is one, even before its file exists, for no token looks like that.
func (in *inputs) token() Token {
	const standard = "./var/run/secrets/tokens/istio-token"
	if in.authToken == nil {
		if in.exists(standard) {
			return Token{Path: standard}
		}
		return Token{}
	}
	value := in.authToken.Reveal()
	if in.exists(value) || strings.HasPrefix(value, "/") || strings.HasPrefix(value, "./") {
		return Token{Path: value}
	}
	return Token{Literal: *in.authToken}
}

// finishOTLP settles whether and where metrics are pushed.
func (in *inputs) finishOTLP() error {
	o := &in.Telemetry.OTLP
	configured := in.otlp.endpoint != "" || in.otlp.metricsEndpoint != ""
	switch {
	case in.otlp.disabled:
	case in.otlp.exporters == nil:
		o.Enabled = configured
	default:
		o.Enabled = slices.Contains(in.otlp.exporters, "otlp")
	}
	if o.ResourceAttributes == nil {
		o.ResourceAttributes = map[string]string{}
	}
	if o.ServiceName == "" {
		o.ServiceName = o.ResourceAttributes["service.name"]
	}
	if o.ServiceName == "" {
		o.ServiceName = "ztunnel"
	}
	name, value := "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", in.otlp.metricsEndpoint
	if value == "" {
		name, value = "OTEL_EXPORTER_OTLP_ENDPOINT", in.otlp.endpoint
	}
	full, err := otlpEndpoint(value, o.Protocol, in.otlp.insecure, in.otlp.metricsEndpoint != "")
	if err != nil {
		return invalid(&Variable{Name: name}, value, err)
	}
	o.Endpoint = full
	o.Insecure = strings.HasPrefix(full, "http://")
	return nil
}

// otlpEndpoint makes an absolute URL of a collector's endpoint. Exact ones, for
// metrics only, are not given a path.
func otlpEndpoint(value, protocol string, insecure, exact bool) (string, error) {
	grpc := protocol == "grpc"
	if value == "" {
		value = "http://localhost:4318"
		if grpc {
			value = "http://localhost:4317"
		}
	}
	if grpc && !strings.Contains(value, "://") {
		scheme := "https://"
		if insecure {
			scheme = "http://"
		}
		value = scheme + value
	}
	if _, err := webURL(value); err != nil {
		return "", err
	}
	if !grpc && !exact {
		value = strings.TrimSuffix(value, "/") + "/v1/metrics"
	}
	return value, nil
}
