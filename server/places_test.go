package server

import (
	"fmt"
	"strings"
	"testing"

	"github.com/volehq/vole/drivers/bucket"
)

// The log says where things are, and has no secret.
func TestPlaces(t *testing.T) {
	for want, o := range map[string]*Options{
		"home /h accounts /h/server/accounts.db":                                 {Home: "/h"},
		"database /d/namespace.db blobs /d/blobs accounts /d/server/accounts.db": {Bucket: &bucket.Options{Dir: "/d"}},
		"database postgres://u@db/vole blobs https://s3.example.com/b/p accounts postgres://u@db/vole": {Bucket: &bucket.Options{
			Database: "postgres://u:secret@db/vole?password=secret", S3: &bucket.S3{Endpoint: "https://a:secret@s3.example.com/", Bucket: "b", Prefix: "p/", AccessKey: "secret", SecretKey: "secret"}}},
		"database /x.db blobs /b accounts postgres://...": {Accounts: "postgres://u:secret%zz@db/x", Bucket: &bucket.Options{Database: "/x.db", Blobs: "/b"}},
	} {
		got := strings.TrimSuffix(fmt.Sprintln(o.Places()...), "\n")
		if strings.Contains(got, "secret") || got != strings.ReplaceAll(want, "https://s3", "https://a@s3") {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
