package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Load reads the configuration from environ (as os.Environ returns it), the
// command line arguments after the program's name, and files relative to dir,
// the working directory. Values that are not UTF-8 count as unset, and of two
// entries for one name the first counts. Errors name the variable at fault and
// never hold a secret.
func Load(environ []string, args []string, dir string) (*Config, error) {
	return load(environ, args, dir, system{
		cpus:          runtime.NumCPU(),
		resolvConf:    "/etc/resolv.conf",
		loopbackNoIP6: "/proc/sys/net/ipv6/conf/lo/disable_ipv6",
	})
}

// system is what Load asks of the machine.
type system struct {
	cpus          int    // that this process may run on
	resolvConf    string // path
	loopbackNoIP6 string // path of the switch
}

// inputs is a Config in the making: the fields that come from one variable
// each, and beside them what must be combined first.
type inputs struct {
	Config
	dir string

	workloadInfo          *string
	kubernetes            bool
	xdsAddress, caAddress *string
	xdsRoot, caRoot       string
	authToken             *Secret
	proxyConfig           string
	metaClusterID         *string
	metadata              map[string]string // from ISTIO_META_*, without prefix
	packetMark            *uint32
	drainDeadline         *time.Duration
	gracePeriod           *uint64
	threads               threadInputs
	rustLog, logLevel     *string
	statsAddr             netip.AddrPort
	otlp                  otlpInputs
}

func load(environ, args []string, dir string, sys system) (*Config, error) {
	in := inputs{dir: dir, metadata: map[string]string{}}
	in.ProxyArgs = strings.Join(args, " ")
	in.ProxyMetadataJSON = map[string]any{}
	in.threads.logical = sys.cpus
	if err := in.parse(environment(environ)); err != nil {
		return nil, err
	}
	pc, err := proxyConfigOf(filepath.Join(dir, "etc/istio/config/mesh"), in.proxyConfig)
	if err != nil {
		return nil, err
	}
	in.ProxyMetadata = mergeMetadata(pc.ProxyMetadata, in.metadata)
	in.threads.concurrency = pc.Concurrency
	for _, finish := range []func() error{
		in.finishPlace,
		func() error { return in.finishControl(pc) },
		func() error { return in.finishListeners(pc, sys) },
		in.finishOTLP,
	} {
		if err := finish(); err != nil {
			return nil, err
		}
	}
	in.finishProcess()
	in.readResolvConf(sys.resolvConf)
	return &in.Config, nil
}

// environment indexes the entries NAME=VALUE that are valid UTF-8.
func environment(environ []string) map[string]string {
	env := make(map[string]string, len(environ))
	for _, entry := range environ {
		name, value, ok := strings.Cut(entry, "=")
		if _, seen := env[name]; !ok || seen || !utf8.ValidString(entry) {
			continue
		}
		env[name] = value
	}
	return env
}

// parse runs every variable of the table: first its default, then the value
// that is set.
func (in *inputs) parse(env map[string]string) error {
	names := make([]string, 0, len(env))
	for name := range env {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, v := range table() {
		switch {
		case v.each != nil:
			prefix := strings.TrimSuffix(v.Name, prefixMark)
			for _, name := range names {
				if key, ok := strings.CutPrefix(name, prefix); ok {
					if err := v.each(in, key, env[name]); err != nil {
						return err
					}
				}
			}
		case v.set != nil:
			if err := in.parseOne(&v, env); err != nil {
				return err
			}
		}
	}
	return nil
}

func (in *inputs) parseOne(v *variable, env map[string]string) error {
	if v.Default != "" {
		if err := v.set(in, v.Default); err != nil {
			panic("default of " + v.Name + ": " + err.Error()) // a mistake in the table
		}
	}
	value, ok := env[v.Name]
	if !ok || value == "" && v.emptyUnset {
		return nil
	}
	if err := v.set(in, value); err != nil {
		return invalid(&v.Variable, value, err)
	}
	return nil
}

// invalid is the error of a value that was not taken.
func invalid(v *Variable, value string, reason error) error {
	if v.Secret {
		value = redacted
	}
	return fmt.Errorf("invalid env var %s=%s (%w)", v.Name, printable(value), reason)
}

var userInfo = regexp.MustCompile(`(^|//).*@`)

// printable is a value for an error: without credentials of a URL, and not
// long.
func printable(value string) string {
	const most = 200
	value = userInfo.ReplaceAllString(value, "${1}"+redacted+"@")
	if len(value) > most {
		return strings.ToValidUTF8(value[:most], "") + "…"
	}
	return value
}

// headerInto returns the handler of one family of headers.
func headerInto(prefix string, field func(*inputs) *[]Header) func(*inputs, string, string) error {
	return func(in *inputs, key, value string) error {
		name := strings.ToLower(key)
		if !isHeaderName(name) {
			return fmt.Errorf("failed to parse header key: %s%s (must be letters, digits, '-', '_' and '.', and not end in -bin)", prefix, key)
		}
		if !isHeaderValue(value) {
			return fmt.Errorf("failed to parse header value: %s of %s%s (must be printable ASCII)", redacted, prefix, key)
		}
		headers := field(in)
		*headers = append(*headers, Header{Name: name, Value: Secret(value)})
		slices.SortStableFunc(*headers, func(a, b Header) int { return strings.Compare(a.Name, b.Name) })
		return nil
	}
}

// setMetadataJSON takes one typed entry of node metadata.
func setMetadataJSON(in *inputs, key, value string) error {
	var decoded any
	if err := json.Unmarshal([]byte(value), &decoded); err != nil {
		in.Warnings = append(in.Warnings, fmt.Sprintf("failed to parse ISTIO_METAJSON_%s: %v", key, err))
		return nil
	}
	in.ProxyMetadataJSON[key] = decoded
	return nil
}

// finishPlace settles mode, workload and cluster.
func (in *inputs) finishPlace() error {
	if in.metaClusterID != nil {
		in.ClusterID = *in.metaClusterID
	}
	if in.Mode != Dedicated {
		return nil
	}
	if in.workloadInfo == nil {
		return errors.New("invalid configuration: PROXY_MODE=dedicated requires PROXY_WORKLOAD_INFO to be set")
	}
	parts := strings.SplitN(*in.workloadInfo, "/", 3)
	if len(parts) != 3 || slices.Contains(parts, "") {
		return fmt.Errorf("invalid configuration: PROXY_WORKLOAD_INFO must match the format 'namespace/name/service-account' (got %q)", parts)
	}
	in.Workload = &WorkloadInfo{Namespace: parts[0], Name: parts[1], ServiceAccount: parts[2]}
	return nil
}

// finishProcess settles what no value can make fail.
func (in *inputs) finishProcess() {
	switch {
	case in.packetMark != nil:
		in.PacketMark = *in.packetMark
	case in.Mode == Shared:
		in.PacketMark = defaultPacketMark
	}
	in.PoolMaxStreams = max(1, in.PoolMaxStreams)
	in.DrainDeadline = drainDeadline(in.drainDeadline, in.gracePeriod)
	in.WorkerThreads = in.threads.threads()
	switch {
	case in.rustLog != nil:
		in.LogFilter = *in.rustLog
	case in.logLevel != nil:
		in.LogFilter = *in.logLevel
	default:
		in.LogFilter = "info"
	}
	in.RequestHeadersTimeout = 15 * time.Second
	in.Budgets = Budgets{
		Window: 10 * time.Second, ControlFrames: 200, PendingResets: 200, Resets: 1000,
		HeaderListBytes: 64 << 10, ContinuationFrames: 16,
	}
}

// defaultPacketMark is what the redirection rules of the CNI agent leave alone.
const defaultPacketMark = 1337

// drainDeadline says how long a drain may take: as given, else what leaves
// some of the pod's grace period for the end after it, else 5 s.
func drainDeadline(deadline *time.Duration, graceSeconds *uint64) time.Duration {
	const mostSeconds = 1 << 32 // far from overflow
	switch {
	case deadline != nil:
		return *deadline
	case graceSeconds == nil:
		return 5 * time.Second
	}
	grace := time.Duration(min(*graceSeconds, mostSeconds)) * time.Second
	if grace > 10*time.Second {
		return grace - 5*time.Second
	}
	return max(time.Second, grace-time.Second)
}

// exists tells whether there is a file of this name, relative to the working
// directory.
func (in *inputs) exists(path string) bool {
	if path == "" {
		return false
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(in.dir, path)
	}
	_, err := os.Stat(path)
	return err == nil
}
