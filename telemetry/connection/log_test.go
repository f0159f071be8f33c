package connection

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ztunnel/telemetry/logging"
)

// testLog is the log as it is written.
type testLog struct {
	log  *logging.Logging
	text bytes.Buffer
}

func newLog(t *testing.T, filter string, json bool) *testLog {
	t.Helper()
	l := &testLog{}
	var err error
	if l.log, err = logging.New(logging.Config{Filter: filter, JSON: json, Output: &l.text}); err != nil {
		t.Fatal(err)
	}
	return l
}

// take ends the log and returns its lines without time and scope: level,
// message and fields. A JSON log is returned as it is.
func (l *testLog) take(t *testing.T) []string {
	t.Helper()
	if err := l.log.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(l.text.String()) {
		if parts := strings.Split(strings.TrimSuffix(line, "\n"), "\t"); len(parts) == 5 && parts[2] == "access" {
			lines = append(lines, parts[1]+" "+parts[3]+" "+parts[4])
		} else {
			lines = append(lines, line)
		}
	}
	return lines
}

func TestAccessLog(t *testing.T) {
	const from = `src.addr=10.0.0.1:40000 src.workload="client-7d9c-x1" src.namespace="shop" `
	const to = `dst.service="echo.stock.svc.cluster.local" dst.workload="server-55-y2" dst.namespace="stock" `
	const srcID, dstID = `src.identity="spiffe://cluster.local/ns/shop/sa/shopper" `, `dst.identity="spiffe://cluster.local/ns/stock/sa/keeper" `
	const srcCluster, dstCluster = `src.cluster="Kubernetes" `, `dst.cluster="Kubernetes" `
	const tunnel = `dst.addr=10.0.1.1:15008 dst.hbone_addr=10.0.1.1:7000 `
	ends := from + srcID + srcCluster + tunnel + to + dstID + dstCluster
	for name, test := range map[string]struct {
		change func(d *Details)
		err    error
		want   string
	}{
		"at the source": {
			func(d *Details) {}, nil,
			"info connection complete " + ends + `direction="outbound" bytes_sent=11 bytes_recv=28 duration="13ms"`,
		},
		"at the destination": {
			func(d *Details) { d.Reporter = Destination }, nil,
			"info connection complete " + ends + `direction="inbound" bytes_sent=28 bytes_recv=11 duration="13ms"`,
		},
		"failed": {
			func(d *Details) {}, &flagged{FlagDeny, `connection closed due to policy rejection: explicitly denied by: stock/"x"`},
			"error connection complete " + ends + `direction="outbound" bytes_sent=11 bytes_recv=28 duration="13ms" ` +
				`error="connection closed due to policy rejection: explicitly denied by: stock/\"x\""`,
		},
		// An end by a drain is an error in the log although it is none in the metrics.
		"drained": {
			func(d *Details) {}, &flagged{FlagNone, "connection closed due to connection drain"},
			"error connection complete " + ends + `direction="outbound" bytes_sent=11 bytes_recv=28 duration="13ms" error="connection closed due to connection drain"`,
		},
		"plain text": {
			func(d *Details) {
				d.MutualTLS, d.HBONEAddr, d.Dst, d.Service = false, "", netip.MustParseAddrPort("[fd00::2]:7000"), nil
				d.SourceIdentity, d.DestinationIdentity = "spiffe://not/to/be/shown", "spiffe://not/to/be/shown"
			}, nil,
			"info connection complete " + from + srcCluster + `dst.addr=[fd00::2]:7000 dst.workload="server-55-y2" dst.namespace="stock" ` +
				dstCluster + `direction="outbound" bytes_sent=11 bytes_recv=28 duration="13ms"`,
		},
		"nobody known": {
			func(d *Details) {
				d.MutualTLS, d.Source, d.Destination, d.Service, d.HBONEAddr, d.SourcePrincipal = false, nil, nil, nil, "", ""
			}, nil,
			`info connection complete src.addr=10.0.0.1:40000 dst.addr=10.0.1.1:15008 direction="outbound" bytes_sent=11 bytes_recv=28 duration="13ms"`,
		},
		// No baggage came back: only the identity is known.
		"double HBONE without baggage": {
			func(d *Details) {
				d.Protocol, d.Destination, d.DestinationPrincipal, d.HBONEAddr = DoubleHBONE, nil, "spiffe://far/ns/a/sa/b", "echo.stock.svc.cluster.local:80"
			}, nil,
			"info connection complete " + from + srcID + srcCluster + `dst.addr=10.0.1.1:15008 dst.hbone_addr=echo.stock.svc.cluster.local:80 ` +
				`dst.service="echo.stock.svc.cluster.local" dst.identity="spiffe://far/ns/a/sa/b" direction="outbound" bytes_sent=11 bytes_recv=28 duration="13ms"`,
		},
		"identities for the log": {
			func(d *Details) { d.SourceIdentity, d.DestinationIdentity = "spiffe://a", "spiffe://b" }, nil,
			"info connection complete " + from + `src.identity="spiffe://a" ` + srcCluster + tunnel + to + `dst.identity="spiffe://b" ` + dstCluster +
				`direction="outbound" bytes_sent=11 bytes_recv=28 duration="13ms"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, c := newLog(t, "info", false), newClock()
			r := NewRecorder(Config{Log: l.log.Logger("access"), Now: c.now})
			d := call(Source)
			d.Start = c.now()
			test.change(d)
			c.advance(5 * time.Millisecond)
			rec := r.Open(d)
			rec.Received.Add(11)
			rec.Sent.Add(28)
			c.advance(8*time.Millisecond + 999*time.Microsecond)
			rec.Close(test.err)
			if diff := cmp.Diff([]string{test.want}, l.take(t)); diff != "" {
				t.Errorf("log, want (-) and got (+):\n%s", diff)
			}
		})
	}
}

// At debug there is a line when the connection opens, with the fields up to
// the direction; the filter decides about every level by itself.
func TestAccessLog_Levels(t *testing.T) {
	for level, want := range map[string][]string{
		"debug": {"debug connection opened", "info connection complete", "debug connection opened", "error connection complete", "warn connection failed"},
		"info":  {"info connection complete", "error connection complete", "warn connection failed"},
		"warn":  {"error connection complete", "warn connection failed"},
		"error": {"error connection complete"},
		"off":   nil,
	} {
		l := newLog(t, level, false)
		r := NewRecorder(Config{Log: l.log.Logger("access")})
		r.Open(call(Source)).Close(nil)
		r.Open(call(Source)).Close(errors.New("x"))
		r.Reject(&Rejection{Reason: ReasonNoRoute})
		var got []string
		for _, line := range l.take(t) {
			if strings.HasPrefix(line, "debug") && !strings.HasSuffix(line, ` dst.cluster="Kubernetes" direction="outbound"`) {
				t.Errorf("the line of an open connection is %s, want it to end with the direction", line)
			}
			before, _, _ := strings.Cut(line, " src.addr")
			got = append(got, before)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("level %v, want (-) and got (+):\n%s", level, diff)
		}
	}
}

// accessFields are the fields of a complete line in their order.
const accessFields = `"src.addr":"10.0.0.1:40000","src.workload":"client-7d9c-x1","src.namespace":"shop",` +
	`"src.identity":"spiffe://cluster.local/ns/shop/sa/shopper","src.cluster":"Kubernetes",` +
	`"dst.addr":"10.0.1.1:15008","dst.hbone_addr":"10.0.1.1:7000","dst.service":"echo.stock.svc.cluster.local","dst.workload":"server-55-y2","dst.namespace":"stock",` +
	`"dst.identity":"spiffe://cluster.local/ns/stock/sa/keeper","dst.cluster":"Kubernetes",` +
	`"direction":"outbound","bytes_sent":11,"bytes_recv":28,"duration":"13ms","error":"x"`

// The log in JSON has the same fields, and so has a handler of another package.
func TestAccessLog_JSON(t *testing.T) {
	var foreign bytes.Buffer
	l := newLog(t, "info", true)
	for _, log := range []*slog.Logger{l.log.Logger("access"), slog.New(slog.NewJSONHandler(&foreign, nil))} {
		c := newClock()
		r := NewRecorder(Config{Log: log, Now: c.now})
		rec := r.Open(call(Source))
		rec.Received.Add(11)
		rec.Sent.Add(28)
		c.advance(13 * time.Millisecond)
		rec.Close(errors.New("x"))
		r.Reject(&Rejection{Reason: ReasonNoRoute, Src: call(Source).Src, Dst: call(Source).Dst, Err: errors.New("no route")})
	}
	for name, got := range map[string]string{"ours": strings.Join(l.take(t), ""), "another": foreign.String()} {
		for _, want := range []string{
			"," + accessFields + "}\n",
			`"src.addr":"10.0.0.1:40000","dst.addr":"10.0.1.1:15008","direction":"outbound","error":"no route"}` + "\n",
		} {
			if strings.Count(got, want) != 1 {
				t.Errorf("%s: got\n%s\nwant once\n%s", name, got, want)
			}
		}
	}
}
