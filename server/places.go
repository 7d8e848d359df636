package server

import (
	"net/url"
	"path/filepath"
	"strings"
)

// Places returns where the served data lies, for the log: alternating keys and values. URLs
// appear without passwords and queries, which may be secret.
func (o *Options) Places() []any {
	list := []any{"accounts", redactedLocation(o.accountsDatabase())}
	if o.Home != "" {
		return append([]any{"home", redactedLocation(o.Home)}, list...)
	}
	if o.Bucket == nil {
		return list
	}
	b := *o.Bucket
	if b.Database == "" {
		b.Database = filepath.Join(b.Dir, "namespace.db")
	}
	switch {
	case b.S3 != nil:
		b.Blobs = strings.TrimSuffix(b.S3.Endpoint, "/") + "/" + b.S3.Bucket
		if b.S3.Prefix != "" {
			b.Blobs += "/" + strings.Trim(b.S3.Prefix, "/")
		}
	case b.Blobs == "":
		b.Blobs = filepath.Join(b.Dir, "blobs")
	}
	return append([]any{"database", redactedLocation(b.Database), "blobs", redactedLocation(b.Blobs)}, list...)
}

// redactedLocation returns an absolute path, or a URL without what may be secret.
func redactedLocation(s string) string {
	if !strings.Contains(s, "://") {
		if abs, err := filepath.Abs(s); err == nil {
			return abs
		}
		return s
	}
	u, err := url.Parse(s)
	if err != nil { // its text would contain the whole URL
		scheme, _, _ := strings.Cut(s, "://")
		return scheme + "://..."
	}
	place := &url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	if u.User != nil && u.User.Username() != "" {
		place.User = url.User(u.User.Username())
	}
	return place.String()
}
