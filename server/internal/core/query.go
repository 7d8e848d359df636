package core

import (
	"net/url"
	"slices"
	"strconv"
	"time"
)

// Query reads the parameters of a request's query. It keeps the first error, so that callers
// check Err once, after all parameters; until then no value may be used.
type Query struct {
	values url.Values
	known  []string
	err    error
}

// Query parses the query strictly: malformed escapes and repeated parameters are refused.
func (r *Request) Query() *Query {
	values, err := url.ParseQuery(r.URL.RawQuery)
	q := &Query{values: values}
	if err != nil {
		q.err = invalidRequest("cannot parse the query of the URL: %v", err)
	}
	return q
}

// Err returns what was wrong with the parameters that were read, or that there are others.
func (q *Query) Err() error {
	if q.err != nil {
		return q.err
	}
	for name := range q.values {
		if !slices.Contains(q.known, name) {
			return invalidRequest("unknown parameter %q", name)
		}
	}
	return nil
}

// Has reports whether the parameter was sent.
func (q *Query) Has(name string) bool { return q.values.Has(name) }

// String returns the value of a parameter, empty if it is missing.
func (q *Query) String(name string) string {
	q.known = append(q.known, name)
	v := q.values[name]
	if len(v) > 1 && q.err == nil {
		q.err = invalidRequest("the parameter %q occurs %d times; send it once", name, len(v))
	}
	if len(v) == 0 {
		return ""
	}
	return v[0]
}

// Required is String for a parameter that must be sent.
func (q *Query) Required(name string) string {
	v := q.String(name)
	if !q.values.Has(name) && q.err == nil {
		q.err = invalidRequest("the parameter %q is missing", name)
	}
	return v
}

// Bool returns the value of a flag, false if it is missing.
func (q *Query) Bool(name string) bool {
	switch v := q.String(name); {
	case v == "true" || v == "1":
		return true
	case v == "false" || v == "0" || !q.values.Has(name):
	case q.err == nil:
		q.err = invalidRequest("the parameter %s=%q: write true or false", name, v)
	}
	return false
}

// Int returns a number from low to high, or def if the parameter is missing.
func (q *Query) Int(name string, def, low, high int64) int64 {
	v := q.String(name)
	if !q.values.Has(name) {
		return def
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if (err != nil || n < low || n > high) && q.err == nil {
		q.err = invalidRequest("the parameter %s=%q: write a number from %d to %d", name, v, low, high)
	}
	return n
}

// RequiredInt returns a number from 0 to high that must be sent.
func (q *Query) RequiredInt(name string, high int64) int64 {
	q.Required(name)
	return q.Int(name, 0, 0, high)
}

// Time returns a time in RFC 3339, zero if the parameter is missing.
func (q *Query) Time(name string) time.Time {
	v := q.String(name)
	if !q.values.Has(name) {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, v)
	if err != nil && q.err == nil {
		q.err = invalidRequest("the parameter %s=%q: write a time such as 2026-01-31T12:00:00Z", name, v)
	}
	return t
}
