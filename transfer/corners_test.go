package transfer_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/transfer"
)

// cornerTexts are numbers that arithmetic trips over, as a PAX record has them.
var cornerTexts = []string{"0", "-0", "1", "-1", "2147483648", "4294967295", "4294967296", "9007199254740992", "4611686018427387904", "9223372036854775807",
	"9223372036854775808", "-9223372036854775808", "-9223372036854775809", "18446744073709551616", "1e3", "1e400", "NaN", "0x10", "", strings.Repeat("9", 400), "1.999999999999", "9223372036854775807.9"}

// TestCornerRecords: whatever number a PAX header has, unpacking ends soon with an error or
// without, within the quota, and the file before it stays.
func TestCornerRecords(t *testing.T) {
	s := openHome(t)
	before := makeTar(t, file("before", "text"))
	before = before[:len(before)-2*512] // without its end
	n := 0
	for _, record := range []string{"size", "uid", "gid", "mtime", "atime", "GNU.sparse.realsize", "GNU.sparse.size", "GNU.sparse.numblocks", "GNU.sparse.offset", "GNU.sparse.numbytes",
		"GNU.sparse.map", "SCHILY.dev", "SCHILY.devmajor", "SCHILY.nlink"} {
		for _, text := range cornerTexts {
			records := map[string]string{record: text}
			if strings.HasPrefix(record, "GNU.sparse.") {
				records["GNU.sparse.major"], records["GNU.sparse.minor"], records["GNU.sparse.name"] = "1", "0", "sparse"
				if record != "GNU.sparse.realsize" {
					records["GNU.sparse.realsize"] = "512"
				}
			}
			if record == "GNU.sparse.map" {
				delete(records, "GNU.sparse.major")
				delete(records, "GNU.sparse.minor")
				records["GNU.sparse.size"], records["GNU.sparse.numblocks"], records["GNU.sparse.map"] = text, "1", "0,"+text
			}
			n++
			v, err := s.Create(t.Context(), fmt.Sprint("v", n), vole.Spec{Quota: 64 * vole.KiB})
			must(t, err)
			fsys, err := v.OpenFS(t.Context(), vole.FSOptions{Batch: true})
			must(t, err)
			stream := append(append(bytes.Clone(before), rawHeader(t, records)...), []byte("1\n0\n"+text+"\n")...)
			stream = append(stream, make([]byte, 4096)...)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			_, uerr := transfer.FromTar(ctx, transfer.Volume(fsys), ".", bytes.NewReader(stream), transfer.Options{Owner: true})
			if ctx.Err() != nil {
				t.Errorf("%s=%s: takes too long", record, text)
			}
			cancel()
			if got, err := fsys.ReadFile(t.Context(), "before"); err != nil || string(got) != "text" {
				t.Errorf("%s=%s: the file before has %q, %v (%v)", record, text, got, err, uerr)
			}
			must(t, fsys.Close())
			info, err := v.Measure(t.Context())
			must(t, err)
			if info.Used > 64*vole.KiB {
				t.Errorf("%s=%s: %v used", record, text, info.Used)
			}
			must(t, v.Remove(t.Context()))
		}
	}
}

// rawHeader is the header of a file of 512 bytes with these records, also such as archive/tar
// writes itself, or not at all.
func rawHeader(t *testing.T, records map[string]string) []byte {
	t.Helper()
	masked := map[string]string{}
	for k, v := range records {
		masked["~"+k[1:]] = v
	}
	b := header(t, 512, masked)
	for k := range records {
		b = bytes.ReplaceAll(b, []byte("~"+k[1:]+"="), []byte(k+"="))
	}
	return b
}
