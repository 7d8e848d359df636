package core

import (
	"net/http/httptest"
	"testing"
)

// What a client says of its address does not count, only what the proxy says.
func TestAddrBehindProxy(t *testing.T) {
	for _, x := range []struct {
		headers []string
		want    string
	}{
		{nil, "192.0.2.1"},
		{[]string{"10.0.0.1"}, "10.0.0.1"},
		{[]string{"1.1.1.1, 10.0.0.1"}, "10.0.0.1"},
		{[]string{"1.1.1.1", "10.0.0.1"}, "10.0.0.1"},
		{[]string{", 10.0.0.1"}, "10.0.0.1"},
		{[]string{""}, "192.0.2.1"},
	} {
		hr := httptest.NewRequest("GET", "/", nil)
		for _, h := range x.headers {
			hr.Header.Add("X-Forwarded-For", h)
		}
		r := &Request{Request: hr, Core: &Core{opts: Options{TrustProxy: true}}}
		if got := r.ClientAddr(); got != x.want {
			t.Errorf("%q: %s", x.headers, got)
		}
	}
}
