package main

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/bucket"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/sandbox"
	"github.com/volehq/vole/transfer"
)

// Every key that the CLI prints is in the documentation, which promises to be complete.
func TestJSONIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/cli-json.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{
		volumeJSON{}, vole.AttachmentInfo{}, usageJSON{}, entryJSON{}, transferJSON{}, transfer.Stats{}, nameJSON{},
		vole.Finding{}, sandbox.Info{}, sandbox.MountInfo{}, versionJSON{}, errorJSON{},
		profileJSON{}, serverJSON{}, keyJSON{}, newKeyJSON{}, auditJSON{}, api.AuditRecord{}, api.Event{},
		imageJSON{}, problemJSON{}, sizeJSON{}, bucket.ExportResult{}, rebuildJSON{}, sweptJSON{}, firstKeyJSON{},
	} {
		for _, key := range jsonKeys(reflect.TypeOf(v)) {
			if !strings.Contains(string(doc), "`"+key+"`") {
				t.Errorf("docs/cli-json.md does not have %q of %T", key, v)
			}
		}
	}
}

func jsonKeys(typ reflect.Type) (keys []string) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		if f.Anonymous {
			keys = append(keys, jsonKeys(f.Type)...)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			panic(fmt.Sprintf("%v.%s has no name in JSON", typ, f.Name))
		}
		keys = append(keys, name)
	}
	return keys
}

// Every exit code is in the documentation and in the topic of the help.
func TestExitCodesAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	help := newExitCodesCmd().Long
	for code := driver.ExitOK; code <= driver.ExitUnavailable; code++ {
		if !strings.Contains(string(doc), fmt.Sprintf("\n| %d | ", code)) {
			t.Errorf("docs/cli.md does not have exit code %d", code)
		}
		if !strings.Contains(help, fmt.Sprintf("\n%5d  ", code)) {
			t.Errorf("vole help exit-codes does not have %d", code)
		}
	}
}
