package profile

import (
	"net/netip"
	"net/url"
	"testing"
)

// No address that the rule admits has the key travel in the clear to another host, or
// carries a secret of its own.
func FuzzServerURL(f *testing.F) {
	for _, s := range []string{"http://127.0.0.1:80", "https://example.com/x/", "http://localhost.example", "http://[::ffff:10.0.0.1]:1", "http://127.1", "http://u:p@127.0.0.1",
		"http://0x7f.1:1", "http:127.0.0.1", "http://127.0.0.1?q", "http://127.0.0.1#f", "http://:80", "HTTP://LOCALHOST", "http://127.0.0.1\\@example.com"} {
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, text string, tls bool) {
		from := &url.URL{Scheme: "http", Host: "127.0.0.1"}
		if tls {
			from.Scheme = "https"
		}
		u, err := ServerURL(text, false, from)
		if err != nil {
			return
		}
		ip, perr := netip.ParseAddr(u.Hostname())
		here := u.Hostname() == "localhost" || perr == nil && ip.Unmap().IsLoopback()
		if u.Scheme == "http" && (!here || tls) || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Hostname() == "" {
			t.Fatalf("%q: %+v", text, u)
		}
	})
}
