package core

import (
	"errors"
	"net/http"
	"net/url"
	"testing"

	"github.com/volehq/vole/driver"
)

// FuzzQuery: values are within what was asked for, or Err says that something is wrong;
// what is repeated or unknown is refused.
func FuzzQuery(f *testing.F) {
	for _, s := range []string{"", "a=1&b=true&c=x&d=2020-01-01T00:00:00Z", "a=1&a=2", "a=-1", "a=101", "b=yes", "d=never", "e=1", "a=%zz", "a=1;b=2", "%00=1", "a", "c=%ff&c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		r := &Request{Request: &http.Request{URL: &url.URL{RawQuery: raw}}}
		q := r.Query()
		a, b, c, d := q.Int("a", 5, 0, 100), q.Bool("b"), q.Required("c"), q.Time("d")
		err := q.Err()
		if err != nil {
			if !errors.Is(err, driver.ErrInvalid) {
				t.Fatalf("%q: %v", raw, err)
			}
			return
		}
		values, perr := url.ParseQuery(raw)
		if perr != nil {
			t.Fatalf("%q was taken and is broken: %v", raw, perr)
		}
		for name, list := range values {
			if len(list) != 1 || name != "a" && name != "b" && name != "c" && name != "d" {
				t.Fatalf("%q was taken with %s=%q", raw, name, list)
			}
		}
		if a < 0 || a > 100 || b != (values.Get("b") == "true" || values.Get("b") == "1") || c != values.Get("c") || !values.Has("c") || !d.IsZero() && !values.Has("d") {
			t.Fatalf("%q gives %d %v %q %v", raw, a, b, c, d)
		}
	})
}
