package msb

import (
	"encoding/base64"
	"io/fs"
	"strings"
	"testing"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/server/internal/core"
)

func TestGiB(t *testing.T) {
	for in, want := range map[string]driver.Size{
		"1": driver.GiB, "0.5": driver.GiB / 2, "0.1": 107374182, "2e0": 2 * driver.GiB, "4194304": 4096 * driver.TiB, "null": 0,
	} {
		var g gibCapacity
		if err := g.UnmarshalJSON([]byte(in)); err != nil || !g.set || g.size != want {
			t.Errorf("%s: %+v, %v; want %d", in, g, err, want)
		}
	}
	for _, in := range []string{"0", "-0", "-1", "1e-12", "8589934592", "1e300", "1e400", `"1"`, "{}", "true"} {
		if err := new(gibCapacity).UnmarshalJSON([]byte(in)); err == nil {
			t.Errorf("%s was accepted", in)
		}
	}
}

func TestDecodeHuge(t *testing.T) {
	if _, err := decodeHeaderPath(strings.Repeat("A", 1<<20)); err == nil {
		t.Error("a header of 1 MiB was accepted")
	}
}

// FuzzDecodePath: a path that is accepted stays in the volume, and is the one that was
// sent; one that is not is an invalid_volume_path.
func FuzzDecodePath(f *testing.F) {
	encode := base64.RawURLEncoding.EncodeToString
	for _, p := range []string{"", "/", ".", "a", "/a/b", "a//b/./c/", "..", "../x", "a/../b", "/..", "...", "a\x00b", "\xff\xfe", "ü/ñ", "~", "C:\\x",
		strings.Repeat("a", 255), strings.Repeat("a", 256), strings.Repeat("a/", 2100), strings.Repeat("../", 1000) + "etc/passwd"} {
		f.Add(encode([]byte(p)))
	}
	for _, raw := range []string{"YQ==", "YR", "Y", "YQ\n", "YQ\r\n", "+/+/", "-_-_", " YQ", "YQ ", "%2e%2e", "../..", strings.Repeat("A", 6000)} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, header string) {
		got, err := decodeHeaderPath(header)
		if err != nil {
			if status, code, message := core.Describe(err); status != 400 || dialectCode(code, err) != codePath || message == "" {
				t.Fatalf("%q: %d %s %q", header, status, code, message)
			}
			return
		}
		sent, err := base64.RawURLEncoding.DecodeString(header)
		if err != nil || encode(sent) != header {
			t.Fatalf("%q was accepted: %v", header, err)
		}
		clean, err := driver.CleanPath(string(sent))
		if err != nil || clean != got || !fs.ValidPath(got) || strings.ContainsRune(got, 0) {
			t.Fatalf("%q is %q, not %q: %v", sent, got, clean, err)
		}
	})
}
