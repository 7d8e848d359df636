package main

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/volehq/vole"
)

// JSON of a template has the values as they are, on a terminal too, and no character that a
// terminal acts on.
func TestFormatJSON(t *testing.T) {
	const value = "a\u202eb\u009b\"<\t"
	v := &volumeJSON{vole.Info{Name: "v", Labels: vole.Labels{"k": value}}, []vole.AttachmentInfo{{Holder: value}}}
	for _, terminal := range []bool{false, true} {
		for text, into := range map[string]func(b []byte) (got []string, err error){
			"json": func(b []byte) ([]string, error) {
				var v volumeJSON
				err := json.Unmarshal(b, &v)
				return []string{v.Labels["k"], v.Attachments[0].Holder}, err
			},
			"{{json .Labels}}": func(b []byte) ([]string, error) {
				var l vole.Labels
				err := json.Unmarshal(b, &l)
				return []string{l["k"]}, err
			},
			"{{json .Attachments}}": func(b []byte) ([]string, error) {
				var l []vole.AttachmentInfo
				err := json.Unmarshal(b, &l)
				return []string{l[0].Holder}, err
			},
		} {
			var out bytes.Buffer
			a := newApp(nil, nil, nil)
			a.stdout = &screen{w: &out, terminal: terminal, json: &a.json}
			f, err := a.newFormatted(text, &volumeJSON{})
			if err == nil {
				err = f.printInspected(*v)
			}
			if err != nil {
				t.Fatal(err)
			}
			if line := bytes.TrimSuffix(out.Bytes(), []byte("\n")); needsEscape(string(line), nil) {
				t.Errorf("%s: %q", text, line)
			}
			got, err := into(out.Bytes())
			for _, s := range got {
				if s != value {
					t.Errorf("%s, terminal %v: %q, want %q", text, terminal, s, value)
				}
			}
			if err != nil {
				t.Error(err)
			}
		}
	}
}
