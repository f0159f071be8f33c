package workload

import (
	"fmt"
	"net/netip"
	"slices"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	api "ztunnel/proxy/api/workloadapi"
	"ztunnel/proxy/spiffe"
)

// Decoder makes records of encoded resources of the type istio.workload.Address. It is used by one goroutine at a time and
// may be kept for the life of the process.
//
// Nearly everything that a control plane sends are workloads of a simple form, and of those most strings are known already.
// The Decoder reads that form from the bytes, without making a message first. Whatever is not of that form goes by way of
// the message and [FromProto], which decide alone what is an error.
type Decoder struct {
	in      *Interner
	message api.Address // scratch
	// services remembers maps by the bytes that they were decoded from, in front of the Interner's memory of their meaning.
	services generations[string, map[NamespacedHostname]PortMap]
	// Scratch of the workload that is read.
	entries  []byte
	addrs    []netip.Addr
	policies []string
}

// NewDecoder returns a Decoder with an Interner of its own.
func NewDecoder() *Decoder {
	return &Decoder{in: NewInterner(), services: newGenerations[string, map[NamespacedHostname]PortMap]()}
}

// decoding drops what this version does not know: nothing of a message is kept but what is converted.
var decoding = proto.UnmarshalOptions{DiscardUnknown: true}

// Decode decodes one resource. Exactly one of workload and service is not nil when the error is. Name is that of the
// resource: a workload with this UID shares the string. Nothing of body is kept.
func (d *Decoder) Decode(name string, body []byte) (*Workload, *Service, error) {
	if w := d.simple(name, body); w != nil {
		return w, nil, nil
	}
	defer d.message.Reset()
	if err := decoding.Unmarshal(body, &d.message); err != nil {
		return nil, nil, fmt.Errorf("decode: failed to decode Protobuf message: %w", err)
	}
	if w := d.message.GetWorkload(); w != nil && w.GetUid() == name {
		w.Uid = name
	}
	return FromProto(&d.message, d.in)
}

// simple decodes a resource that is one workload and nothing else. It returns nil if it is anything else, or more than
// the decoder understands.
func (d *Decoder) simple(name string, body []byte) *Workload {
	number, kind, n := protowire.ConsumeTag(body)
	if n < 0 || number != 1 || kind != protowire.BytesType {
		return nil
	}
	b, m := protowire.ConsumeBytes(body[n:])
	if m < 0 || n+m != len(body) {
		return nil
	}
	w := &Workload{WorkloadType: workloadTypes[api.WorkloadType_DEPLOYMENT], Capacity: 1}
	d.entries, d.addrs, d.policies = d.entries[:0], d.addrs[:0], d.policies[:0]
	var podName []byte
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil
		}
		var ok bool
		switch kind {
		case protowire.BytesType:
			v, m := protowire.ConsumeBytes(b[n:])
			if m < 0 {
				return nil
			}
			switch number {
			case 1:
				podName, ok = v, utf8.Valid(v)
			case 20:
				ok = utf8.Valid(v)
				if w.UID = name; string(v) != name {
					w.UID = string(v)
				}
			case 22:
				d.entries, ok = append(d.entries, b[:n+m]...), true
			default:
				ok = d.bytes(w, number, v)
			}
			n += m
		case protowire.VarintType:
			v, m := protowire.ConsumeVarint(b[n:])
			if m < 0 {
				return nil
			}
			ok = w.number(number, v)
			n += m
		}
		if !ok {
			return nil
		}
		b = b[n:]
	}
	return d.complete(w, podName)
}

// bytes takes a field of a workload that is text, bytes or a message. It returns false for what it does not understand.
func (d *Decoder) bytes(w *Workload, field protowire.Number, v []byte) bool {
	var text *string
	switch field {
	case 2:
		text = &w.Namespace
	case 3:
		addr, ok := netip.AddrFromSlice(v)
		d.addrs = append(d.addrs, addr)
		return ok
	case 4:
		text = &w.Network
	case 6:
		text = &w.TrustDomain
	case 7:
		text = &w.ServiceAccount
	case 9:
		text = &w.Node
	case 10:
		text = &w.CanonicalName
	case 11:
		text = &w.CanonicalRevision
	case 13:
		text = &w.WorkloadName
	case 16:
		var policy string
		ok := d.text(&policy, v)
		d.policies = append(d.policies, policy)
		return ok
	case 18:
		text = &w.ClusterID
	case 21:
		text = &w.Hostname
	case 24:
		return d.locality(&w.Locality, v)
	default: // gateways, capacities, tunnels, extensions, and what is unknown
		return false
	}
	return d.text(text, v)
}

// text takes a string. It returns false if it is no UTF-8.
func (d *Decoder) text(to *string, v []byte) bool {
	if known, ok := d.in.strings.young[string(v)]; ok { // only valid ones are known
		*to = known
		return true
	}
	if !utf8.Valid(v) {
		return false
	}
	*to = d.in.string(string(v))
	return true
}

// number takes a field of a workload that is a number. It returns false for one that it does not know.
func (w *Workload) number(field protowire.Number, v uint64) bool {
	switch field {
	case 5:
		w.Protocol = TCP
		if v == uint64(api.TunnelProtocol_HBONE) {
			w.Protocol = HBONE
		}
		return v <= uint64(api.TunnelProtocol_HBONE)
	case 12:
		w.WorkloadType = workloadType(api.WorkloadType(v))
	case 14:
		w.NativeTunnel = v != 0
	case 17:
		w.Status = Healthy
		if v == uint64(api.WorkloadStatus_UNHEALTHY) {
			w.Status = Unhealthy
		}
		return v <= uint64(api.WorkloadStatus_UNHEALTHY)
	case 25:
		w.NetworkMode = NetworkStandard
		if v == uint64(api.NetworkMode_HOST_NETWORK) {
			w.NetworkMode = HostNetwork
		}
		return v <= uint64(api.NetworkMode_HOST_NETWORK)
	default:
		return false
	}
	return true
}

// locality takes a message of strings alone. If the field comes twice, the second adds to the first, as protobuf has it.
func (d *Decoder) locality(l *Locality, b []byte) bool {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 || kind != protowire.BytesType {
			return false
		}
		v, m := protowire.ConsumeBytes(b[n:])
		if m < 0 {
			return false
		}
		var to *string
		switch number {
		case 1:
			to = &l.Region
		case 2:
			to = &l.Zone
		case 3:
			to = &l.Subzone
		default:
			return false
		}
		if !d.text(to, v) {
			return false
		}
		b = b[n+m:]
	}
	return true
}

// complete sets what needs all fields. It returns nil if the services are not understood.
func (d *Decoder) complete(w *Workload, podName []byte) *Workload {
	if n := len(w.UID) - len(podName); n >= 0 && w.UID[n:] == string(podName) {
		w.Name = w.UID[n:]
	} else {
		w.Name = string(podName)
	}
	w.TrustDomain = d.in.string(orDefault(w.TrustDomain, spiffe.DefaultTrustDomain))
	w.ServiceAccount = d.in.string(orDefault(w.ServiceAccount, spiffe.DefaultServiceAccount))
	w.ClusterID = d.in.string(orDefault(w.ClusterID, defaultClusterID))
	if len(d.addrs) > 0 {
		w.Addrs = slices.Clone(d.addrs)
	}
	if len(d.policies) > 0 {
		w.AuthorizationPolicies = slices.Clone(d.policies)
	}
	if len(d.entries) == 0 {
		return w
	}
	var ok bool
	if w.Services, ok = d.services.young[string(d.entries)]; ok {
		return w
	}
	var message api.Workload
	if decoding.Unmarshal(d.entries, &message) != nil {
		return nil
	}
	services, err := d.in.serviceMap(message.GetServices())
	if err != nil {
		return nil
	}
	w.Services = services
	d.services.put(string(d.entries), services)
	return w
}
