package transfer

import (
	"archive/tar"
	"bytes"
	"io"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

// Headers say to archive/tar what they were made of, whatever has no place in the old
// format.
func TestTarHeader(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	var all []tar.Header
	for n := 90; n < 110; n++ { // the length of a record gains a digit here, and a name becomes long
		all = append(all, tar.Header{Typeflag: tar.TypeDir, Name: strings.Repeat("n", n-1) + "/", Mode: 0o755, ModTime: at})
	}
	all = append(all,
		tar.Header{Typeflag: tar.TypeReg, Name: "naïve", Mode: 0o4711, Uid: 1, Gid: 1 << 30, ModTime: time.Unix(5, 1)},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: strings.Repeat("t/", 2000) + "é", ModTime: at},
		tar.Header{Typeflag: tar.TypeLink, Name: "h", Linkname: "naïve", ModTime: at},
		tar.Header{Typeflag: tar.TypeDir, Name: "early/", Uid: math.MaxUint32 - 1, ModTime: time.Unix(-3, 250_000_000)},
		tar.Header{Typeflag: tar.TypeDir, Name: "late/", ModTime: time.Unix(1<<33, 0)},
		tar.Header{Typeflag: tar.TypeBlock, Name: "b", Devmajor: 1<<21 - 1, Devminor: 255, ModTime: at},
		tar.Header{Typeflag: tar.TypeReg, Name: "x", ModTime: at, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "v=\n\x00", "SCHILY.xattr.user.b": ""}},
		tar.Header{Typeflag: tar.TypeReg, Name: "big", Size: 1 << 33, ModTime: at}, // last: its content is not here
	)
	var stream []byte
	var err error
	for _, hdr := range all {
		if stream, err = appendTarHeader(stream, &hdr); err != nil || len(stream)%tarUnit != 0 {
			t.Fatalf("%+v: %v, %d bytes", hdr, err, len(stream))
		}
	}
	tr := tar.NewReader(bytes.NewReader(stream))
	for _, want := range all {
		got, err := tr.Next()
		if err != nil {
			t.Fatalf("%+v: %v", want, err)
		}
		var attrs map[string]string
		for k, v := range got.PAXRecords {
			if strings.HasPrefix(k, xattrRecord) {
				if attrs == nil {
					attrs = map[string]string{}
				}
				attrs[k] = v
			}
		}
		if !got.ModTime.Equal(want.ModTime) {
			t.Errorf("%s: time %v, want %v", want.Name, got.ModTime, want.ModTime)
		}
		if !reflect.DeepEqual(attrs, want.PAXRecords) && len(attrs)+len(want.PAXRecords) > 0 {
			t.Errorf("%s: attributes %q, want %q", want.Name, attrs, want.PAXRecords)
		}
		have := tar.Header{
			Typeflag: got.Typeflag, Name: got.Name, Linkname: got.Linkname, Size: got.Size, Mode: got.Mode, Uid: got.Uid, Gid: got.Gid,
			ModTime: want.ModTime, Devmajor: got.Devmajor, Devminor: got.Devminor, PAXRecords: want.PAXRecords,
		}
		if !reflect.DeepEqual(have, want) {
			t.Errorf("%+v\nwant %+v", have, want)
		}
	}
	if _, err := tr.Next(); err != io.ErrUnexpectedEOF {
		t.Errorf("the end: %v", err)
	}
	for _, bad := range []tar.Header{{Name: "a\x00"}, {Name: "a", Linkname: "\x00"}, {Name: "a", Devminor: 1 << 21}} {
		if _, err := appendTarHeader(nil, &bad); err == nil {
			t.Errorf("%+v: no error", bad)
		}
	}
}
