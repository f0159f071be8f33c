package deploy_test

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ztunnel/proxy/config"
	"ztunnel/proxy/needs"

	gocmp "github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

// kustomize is built from source by `go run`. Its results are those of the one
// in kubectl.
const kustomize = "sigs.k8s.io/kustomize/kustomize/v5@v5.8.2"

// An object is a decoded manifest.
type object = map[string]any

// at returns what lies below the keys. It panics if there is nothing: a test
// that asks has the wrong idea of its input.
func at[T any](o object, keys ...string) T {
	var value any = o
	for _, key := range keys {
		value = value.(object)[key]
	}
	return value.(T)
}

// needKustomize makes sure that kustomize runs, so that a later failure is ours.
func needKustomize(t *testing.T) {
	t.Helper()
	if output, err := exec.CommandContext(t.Context(), "go", "run", kustomize, "version").CombinedOutput(); err != nil {
		needs.Missing(t, "this test needs kustomize: "+err.Error()+"\n"+string(output))
	}
}

// tree copies the kustomizations to a new directory, with chart in the place of
// what the operator renders, and returns it.
func tree(t *testing.T, chart []byte) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"base", "overlays"} {
		if err := os.CopyFS(filepath.Join(dir, name), os.DirFS(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "base", "ztunnel.yaml"), chart, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// build returns the objects of a kustomization in their order.
func build(t *testing.T, dir string) ([]object, error) {
	t.Helper()
	var stderr bytes.Buffer
	command := exec.CommandContext(t.Context(), "go", "run", kustomize, "build", dir)
	command.Stderr = &stderr
	output, err := command.Output()
	if err != nil {
		return nil, errors.New(stderr.String())
	}
	if stderr.Len() > 0 { // of deprecated fields, for one
		t.Errorf("kustomize warns: %s", stderr.String())
	}
	return decode(t, output), nil
}

func decode(t *testing.T, content []byte) []object {
	t.Helper()
	var all []object
	for decoder := yaml.NewDecoder(bytes.NewReader(content)); ; {
		var o object
		if err := decoder.Decode(&o); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, o)
	}
}

// kinds returns the kinds of objects, in order, and the objects by their kind.
func kinds(objects []object) (order []string, byKind map[string]object) {
	byKind = map[string]object{}
	for _, o := range objects {
		order = append(order, at[string](o, "kind"))
		byKind[at[string](o, "kind")] = o
	}
	return order, byKind
}

// container returns the only container of a DaemonSet.
func container(daemonSet object) object {
	return at[[]any](daemonSet, "spec", "template", "spec", "containers")[0].(object)
}

// setEnv replaces a variable or adds it.
func setEnv(daemonSet, variable object) {
	c := container(daemonSet)
	env := slices.DeleteFunc(c["env"].([]any), func(e any) bool { return e.(object)["name"] == variable["name"] })
	c["env"] = append(env, variable)
}

// normalise sorts the environment, whose order says nothing here.
func normalise(daemonSet object) {
	slices.SortFunc(container(daemonSet)["env"].([]any), func(a, b any) int {
		return cmp.Compare(a.(object)["name"].(string), b.(object)["name"].(string))
	})
}

// policyObject is who may read, in the namespace of ztunnel.
func policyObject(namespace string) object {
	return object{
		"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
		"metadata": object{"name": "ztunnel-metrics", "namespace": namespace},
		"spec": object{
			"action":   "ALLOW",
			"selector": object{"matchLabels": object{"app": "ztunnel"}},
			"rules": []any{object{
				"from": []any{object{"source": object{"principals": []any{"cluster.local/ns/monitoring/sa/prometheus"}}}},
				"to":   []any{object{"operation": object{"ports": []any{"15020"}}}},
			}},
		},
	}
}

// ingress is what is open in a NetworkPolicy, beside others at last.
func ingress(others ...int) []any {
	var rules []any
	for _, port := range append([]int{15021, 15008, 15001, 15006, 15053}, others...) {
		ports := []any{object{"protocol": "TCP", "port": port}}
		if port == 15053 {
			ports = append(ports, object{"protocol": "UDP", "port": port})
		}
		rules = append(rules, object{"ports": ports})
	}
	return rules
}

// The overlays change what stands here, and nothing else.
func TestOverlays(t *testing.T) {
	needKustomize(t)
	for _, overlay := range []struct {
		name    string
		ingress []any
	}{
		{"mesh", ingress()},
		{"migrate", ingress(15020)},
	} {
		for _, input := range []struct{ chart, namespace string }{
			{"chart.yaml", "istio-system"},
			{"chart-options.yaml", "mesh-nodes"},
		} {
			t.Run(overlay.name+"/"+input.chart, func(t *testing.T) {
				chart, err := os.ReadFile(filepath.Join("testdata", input.chart))
				if err != nil {
					t.Fatal(err)
				}
				dir := tree(t, chart)
				before, err := build(t, filepath.Join(dir, "base"))
				if err != nil {
					t.Fatal(err)
				}
				after, err := build(t, filepath.Join(dir, "overlays", overlay.name))
				if err != nil {
					t.Fatal(err)
				}

				order, got := kinds(after)
				if order[0] != "AuthorizationPolicy" {
					t.Errorf("the objects are applied in the order %q, want the policy first", order)
				}
				_, want := kinds(before)
				want["AuthorizationPolicy"] = policyObject(input.namespace)
				if n, ok := want["NetworkPolicy"]; ok {
					at[object](n, "spec")["ingress"] = overlay.ingress
				}
				exposure := map[string]string{"mesh": "mesh", "migrate": "both"}[overlay.name]
				swap(want["DaemonSet"], exposure)
				normalise(want["DaemonSet"])
				normalise(got["DaemonSet"])
				if diff := gocmp.Diff(want, got); diff != "" {
					t.Errorf("built objects (-want +got):\n%s", diff)
				}
				checkStarts(t, got["DaemonSet"], exposure)
			})
		}
	}
}

// swap makes Istio's DaemonSet ours.
func swap(daemonSet object, exposure string) {
	at[object](daemonSet, "spec", "template", "metadata", "labels")["networking.istio.io/tunnel"] = "http"
	container(daemonSet)["image"] = "registry.example.com/ztunnel:edit-me"
	setEnv(daemonSet, object{"name": "TELEMETRY_EXPOSURE", "value": exposure})
	setEnv(daemonSet, object{"name": "ISTIO_META_ISTIO_VERSION", "valueFrom": object{
		"fieldRef": object{"fieldPath": "metadata.labels['app.kubernetes.io/version']"},
	}})
}

// checkStarts has the container's environment parsed as ztunnel does at start.
func checkStarts(t *testing.T, daemonSet object, exposure string) {
	t.Helper()
	version := at[string](daemonSet, "spec", "template", "metadata", "labels", "app.kubernetes.io/version")
	// What Kubernetes tells a pod of itself, by field.
	fields := map[string]string{
		"metadata.name": "ztunnel-x7k2p", "metadata.namespace": at[string](daemonSet, "metadata", "namespace"),
		"spec.nodeName": "node-1", "status.podIP": "10.244.1.9",
		"spec.serviceAccountName":                      at[string](daemonSet, "spec", "template", "spec", "serviceAccountName"),
		"metadata.labels['app.kubernetes.io/version']": version,
		"limits.cpu": "4", "requests.cpu": "1",
	}
	environ := []string{"KUBERNETES_SERVICE_HOST=10.96.0.1"}
	for _, e := range container(daemonSet)["env"].([]any) {
		e := e.(object)
		value, ok := e["value"].(string)
		if !ok {
			field := ""
			for _, from := range e["valueFrom"].(object) {
				from := from.(object)
				if name, ok := cmp.Or(from["fieldPath"], from["resource"]).(string); ok {
					field = name
				}
			}
			if value, ok = fields[field]; !ok {
				t.Fatalf("%v comes from the field %q, which this test does not know", e["name"], field)
			}
		}
		environ = append(environ, e["name"].(string)+"="+value)
	}
	var args []string
	for _, arg := range container(daemonSet)["args"].([]any) {
		args = append(args, arg.(string))
	}
	c, err := config.Load(environ, args, t.TempDir())
	if err != nil {
		t.Fatalf("ztunnel would not start: %v", err)
	}
	if c.Mode != config.Shared || string(c.Telemetry.Exposure) != exposure || c.IstioVersion != version {
		t.Errorf("ztunnel starts with mode %v, exposure %q, Istio %q, want shared, %q, %q",
			c.Mode, c.Telemetry.Exposure, c.IstioVersion, exposure, version)
	}
}

// What is not the output of the ztunnel chart is refused: the patches would do
// nothing, or change another DaemonSet.
func TestWrongChart(t *testing.T) {
	needKustomize(t)
	const other = "\n---\n{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: istio-cni-node, namespace: istio-system}}\n"
	chart, err := os.ReadFile("testdata/chart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	account, _, _ := bytes.Cut(chart, []byte("---\n"))
	for _, test := range []struct {
		name, reason string
		chart        []byte
	}{
		{"no DaemonSet", "nothing selected by DaemonSet", account},
		{"two DaemonSets", "multiple matches for selector DaemonSet", append(slices.Clone(chart), other...)},
	} {
		t.Run(test.name, func(t *testing.T) {
			objects, err := build(t, filepath.Join(tree(t, test.chart), "overlays", "mesh"))
			if err == nil || !strings.Contains(err.Error(), test.reason) {
				t.Errorf("build returned %d objects and the error %v, want %q", len(objects), err, test.reason)
			}
		})
	}
}
