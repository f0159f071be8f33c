package identity_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"ztunnel/proxy/identity"
)

// collect reads all series that are not 0, as "name{label=value,...} value".
func collect(t *testing.T, reader *sdk.ManualReader) []string {
	t.Helper()
	var data metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &data); err != nil {
		t.Fatal(err)
	}
	var list []string
	add := func(name string, labels attribute.Set, value any) {
		var pairs []string
		for _, kv := range labels.ToSlice() {
			pairs = append(pairs, string(kv.Key)+"="+kv.Value.String())
		}
		if fmt.Sprint(value) != "0" {
			list = append(list, fmt.Sprintf("%s{%s} %v", name, strings.Join(pairs, ","), value))
		}
	}
	for _, scope := range data.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch d := m.Data.(type) {
			case metricdata.Gauge[int64]:
				for _, p := range d.DataPoints {
					add(m.Name, p.Attributes, p.Value)
				}
			case metricdata.Sum[int64]:
				for _, p := range d.DataPoints {
					add(m.Name, p.Attributes, p.Value)
				}
			case metricdata.Histogram[float64]:
				for _, p := range d.DataPoints {
					add(m.Name, p.Attributes, fmt.Sprintf("count %d sum %g", p.Count, p.Sum))
				}
			}
		}
	}
	slices.Sort(list)
	return list
}

func TestManager_Metrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newScriptedCA(t, time.Second, time.Hour)
		m := identity.NewManager(ca, identity.Config{MaxIdentities: 3})
		reader := sdk.NewManualReader()
		if err := m.Register(sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")); err != nil {
			t.Fatal(err)
		}
		if got := collect(t, reader); len(got) != 0 {
			t.Errorf("series that are not 0 before anything happened = %v", got)
		}
		runRegistered(t, m)
		want(t, m, "a", identity.RealTime)
		ca.fail(&identity.RequestError{Code: "Unavailable", Message: "x"})
		m.Certificate(t.Context(), account("b"), identity.RealTime)
		if err := m.Prefetch(account("c")); err != nil {
			t.Fatal(err)
		}
		m.Prefetch(account("d"))
		synctest.Wait()
		root := ca.ca.Root()
		want := []string{
			fmt.Sprintf("istio_cert_expiry_timestamp_seconds{identity=%s} %d", account("a"), 946684801+3600),
			"istio_ztunnel_certs{state=available} 1",
			"istio_ztunnel_certs{state=initializing} 1",
			"istio_ztunnel_certs{state=unavailable} 1",
			"istio_ztunnel_csr_duration_seconds{result=error} count 1 sum 1",
			"istio_ztunnel_csr_duration_seconds{result=success} count 1 sum 1",
			"istio_ztunnel_csr_total{code=OK,result=success} 1",
			"istio_ztunnel_csr_total{code=Unavailable,result=error} 1",
			"istio_ztunnel_identities_refused_total{} 1",
		}
		got := collect(t, reader)
		i := slices.IndexFunc(got, func(s string) bool { return strings.HasPrefix(s, "istio_ztunnel_root_cert_expiry_timestamp_seconds{") })
		if i < 0 || !strings.HasSuffix(got[i], fmt.Sprint("} ", root.NotAfter.Unix())) {
			t.Errorf("series = %v, want the expiry of the root, %d", got, root.NotAfter.Unix())
		} else {
			got = slices.Delete(got, i, i+1)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("series (-want +got):\n%s", diff)
		}
		m.Forget(account("a"))
		for _, s := range collect(t, reader) {
			if strings.Contains(s, "expiry") {
				t.Errorf("series after Forget: %s, want none", s)
			}
		}
	})
}

// value is that of a series as collect writes it.
func value(t *testing.T, series string) int {
	t.Helper()
	n, err := strconv.Atoi(series[strings.LastIndex(series, " ")+1:])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
