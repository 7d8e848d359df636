package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode"

	"github.com/volehq/vole/driver"
)

// answers returns one of each type that a client decodes.
func answers() []any {
	return []any{&Server{}, &Volume{}, &VolumePage{}, &EntryPage{}, &AuditPage{}, &Entry{}, &Attachment{}, &Attachments{}, &Session{}, &Filesystem{},
		&Handle{}, &Extent{}, &Written{}, &Appended{}, &Usage{}, &XattrNames{}, &Findings{}, &Key{}, &Keys{}, &NewKey{}, &Orgs{}, &Event{}, &ErrorBody{}, &Outcome{}}
}

// Whatever a server sends, decoding it fails or gives values that can be used as names,
// paths, addresses and headers.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"entries":[{"name":"a","type":"file","inode":1,"nlink":1,"mode":"0644"}],"next":"x"}`, `{"entries":[{"name":"..","name_bytes":"Li4=","type":"directory","inode":1,"mode":"0755"}]}`,
		`{"id":"0192f0c1-7c1e-7d7e-9d8e-000000000001","name":"v","kind":"dir","state":"ready","labels":{"a":"b"},"created":"9999-12-31T23:59:59-23:59"}`,
		`{"id":"s","lease_seconds":1e300,"url":"http://127.0.0.1"}`, `{"error":{"code":"x","message":"\u001b[31m\u202e","request_id":"r"}}`, `{"start":1,"end":0}`,
		`{"api":2,"caps":{"backend":"local"},"org":"o"}`, `{"names":["user.a","b\u0000"]}`, `{"total":-1}`, `[[[[`,
		`{"id":"../x","entry":{"name":"a","type":"file","inode":1,"mode":"0644"}}`, `{"key":{"id":"k"},"secret":"a\u001b"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, out := range answers() {
			err := Decode(bytes.NewReader(data), out)
			if err != nil {
				if !errors.Is(err, driver.ErrUnavailable) && !errors.Is(err, driver.ErrCorrupt) || err.Error() != PlainText(err.Error()) {
					t.Fatalf("%T: %q", out, err)
				}
				continue
			}
			checkDecoded(t, out)
		}
	})
}

// checkDecoded looks at what the client relies on.
func checkDecoded(t *testing.T, out any) {
	plain := func(s string) {
		if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Fatalf("%T: %q", out, s)
		}
	}
	token := func(s string) {
		if s == "" || s[0] == '.' || strings.ContainsFunc(s, func(r rune) bool {
			return r > unicode.MaxASCII || !unicode.IsPrint(r) || strings.ContainsRune("/?#% \\", r)
		}) {
			t.Fatalf("%T: the id %q", out, s)
		}
	}
	switch v := out.(type) {
	case *Filesystem:
		token(v.ID)
	case *Handle:
		token(v.ID)
	case *Attachment:
		token(v.ID)
	case *Key:
		token(v.ID)
	case *NewKey:
		token(v.Key.ID)
		plain(v.Secret)
	case *XattrNames:
		for _, name := range v.Names {
			if name == "" || strings.Contains(name, "\x00") {
				t.Fatalf("%q", v.Names)
			}
		}
	case *Usage:
		if v.Free < 0 || v.Used < 0 || v.Total < 0 {
			t.Fatalf("%+v", v)
		}
	case *EntryPage:
		for _, e := range v.Entries {
			d := e.Driver()
			if d.Name == "" || d.Name == "." || d.Name == ".." || strings.ContainsAny(d.Name, "/\x00") || d.Size < 0 {
				t.Fatalf("%+v", d)
			}
			if _, err := json.Marshal(d); err != nil {
				t.Fatal(err)
			}
		}
		plain(v.Next)
	case *Volume:
		if i := v.Info(); driver.ValidateName(i.Name) != nil || !driver.IsID(i.ID) || i.Used < 0 {
			t.Fatalf("%+v", i)
		}
		if _, err := json.Marshal(v.Info()); err != nil {
			t.Fatal(err)
		}
	case *Session:
		if v.ID == "" || strings.ContainsAny(v.ID, "/?#%") || v.LeaseSeconds < 0.01 || v.LeaseSeconds > 86400 {
			t.Fatalf("%+v", v)
		}
	case *ErrorBody:
		plain(v.Error.Message)
		plain(v.Error.Code)
		plain(v.Error.RequestID)
	case *Extent:
		if v.Start < 0 || v.End <= v.Start {
			t.Fatalf("%+v", v)
		}
	}
}

// Every type that is decoded has a check.
func TestEveryAnswerIsChecked(t *testing.T) {
	for _, a := range answers() {
		if err := Check(a); err != nil && strings.Contains(err.Error(), "has no check") {
			t.Error(err)
		}
	}
	if err := Check(&StatResults{}); err == nil {
		t.Error("a type without a check was accepted")
	}
}

// A sparse body gives ascending ranges within the size, whatever it holds.
func FuzzSparseDecoder(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x02ab\x00\x00\x00\x00\x00\x00\x00\x09\x00\x00\x00\x00\x00\x00\x00\x00"), int64(9))
	f.Add(bytes.Repeat([]byte{0xff}, 32), int64(-1))
	f.Fuzz(func(t *testing.T, data []byte, size int64) {
		d := NewSparseDecoder(bytes.NewReader(data), size)
		last, buf := int64(0), make([]byte, 7)
		for {
			off, n, err := d.NextData(t.Context())
			if err != nil {
				return
			}
			if off < last || n <= 0 || off > size-n {
				t.Fatalf("%d bytes at %d after %d of %d", n, off, last, size)
			}
			last = off + n
			for n > 0 {
				m, err := d.Read(buf)
				if n -= int64(m); err != nil {
					return
				}
			}
		}
	})
}
