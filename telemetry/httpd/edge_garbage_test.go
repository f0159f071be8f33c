package httpd

import (
	"io"
	"strings"
	"testing"
)

// What is no HTTP is answered by a 400, and the connection ends.
func TestGarbage(t *testing.T) {
	addr, _, _ := serve(t, Config{Handler: hello})
	for _, garbage := range []string{"hello world\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "\r\n\x00\r\n\r\n", "GET\r\n\r\n"} {
		conn := dial(t, addr)
		if _, err := io.WriteString(conn, garbage); err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 400 ") {
			t.Errorf("the answer to %q is %q, %v, want 400", garbage, b, err)
		}
	}
}
