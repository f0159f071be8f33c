package mesh

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"ztunnel/proxy/spiffe"
)

// Ports of ztunnel that are not redirected to.
const (
	AdminPort     = 15000
	MetricsPort   = 15020 // a virtual port, as long as nothing listens there
	ReadinessPort = 15021
)

// pollEvery is how often something is asked that cannot be waited for.
const pollEvery = 20 * time.Millisecond

// ZtunnelConfig says how to run the ztunnel of a node.
type ZtunnelConfig struct {
	Binary string
	// Name is that of ztunnel's pod.
	Name string
	// Identity is that of ztunnel itself, with its namespace and service account.
	Identity spiffe.ID
	// ControlPlane is where xDS and the CA are.
	ControlPlane netip.AddrPort
	// ClusterID is that of the control plane.
	ClusterID string
	// RootFile has the root certificate of the control plane, TokenFile the token
	// that ztunnel shows to it.
	RootFile, TokenFile string
	// Socket is where the node's CNI agent listens.
	Socket string
	// LogFile is where its log goes. It must not exist.
	LogFile string
	// Env is what to set beside, or instead of, what follows from the above.
	Env map[string]string
}

// Ztunnel is the ztunnel of a node, in shared mode.
type Ztunnel struct {
	*Process
	// Pod is where it runs itself. It serves other pods of the node.
	Pod *Pod
}

// StartZtunnel starts a ztunnel in this pod, which should not be captured, to
// serve the pods of its node that the CNI agent tells it; see
// [Ztunnel.AwaitReady].
func (p *Pod) StartZtunnel(c ZtunnelConfig) (*Ztunnel, error) {
	server := "https://" + c.ControlPlane.String()
	env := map[string]string{
		"PROXY_MODE":            "shared",
		"NODE_NAME":             p.Node.Name,
		"POD_NAME":              c.Name,
		"POD_NAMESPACE":         c.Identity.Namespace,
		"SERVICE_ACCOUNT":       c.Identity.ServiceAccount,
		"TRUST_DOMAIN":          c.Identity.TrustDomain,
		"INSTANCE_IP":           p.Addr.String(),
		"CLUSTER_ID":            c.ClusterID,
		"ISTIO_META_CLUSTER_ID": c.ClusterID,
		"XDS_ADDRESS":           server,
		"XDS_ROOT_CA":           c.RootFile,
		"CA_ADDRESS":            server,
		"CA_ROOT_CA":            c.RootFile,
		"AUTH_TOKEN":            c.TokenFile,
		"INPOD_UDS":             c.Socket,
		"IPV6_ENABLED":          strconv.FormatBool(p.Addr6.IsValid()),
	}
	maps.Copy(env, c.Env)
	command := Command{Path: c.Binary, LogFile: c.LogFile}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		command.Env = append(command.Env, name+"="+env[name])
	}
	process, err := p.Start(command)
	if err != nil {
		return nil, err
	}
	return &Ztunnel{process, p}, nil
}

// AwaitReady waits until the ztunnel says that it is ready. The error tells
// what it said last, or that it has ended.
func (z *Ztunnel) AwaitReady(ctx context.Context) error {
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for {
		status, text, err := z.Get(ctx, ReadinessPort, "/healthz/ready")
		if err == nil && status == http.StatusOK {
			return nil
		}
		select {
		case <-poll.C:
		case <-z.Ended():
			return fmt.Errorf("ztunnel of %s ended while starting: %w", z.Pod.Name, z.err)
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("it says %d %q", status, text)
			}
			return fmt.Errorf("ztunnel of %s is not ready: %w", z.Pod.Name, err)
		}
	}
}

// Get asks the HTTP server at a port of the pod's loopback address, from within
// the pod.
func (z *Ztunnel) Get(ctx context.Context, port uint16, path string) (status int, body string, err error) {
	client := z.Pod.HTTP()
	defer client.CloseIdleConnections()
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
	return Get(ctx, client, "http://"+addr.String()+path)
}

// HTTP is a client within the namespace. It knows no names, only addresses.
func (ns *Namespace) HTTP() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: ns.DialAny, DisableCompression: true}}
}

// maxBody bounds the answers that Get reads.
const maxBody = 64 << 20

// Get gets a URL and reads the whole answer.
func Get(ctx context.Context, client *http.Client, url string) (status int, body string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		return response.StatusCode, "", fmt.Errorf("read %s: %w", url, err)
	}
	return response.StatusCode, string(content), nil
}
