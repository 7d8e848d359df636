package api

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/volehq/vole/driver"
)

// The description of the API has the codes of the table, with their statuses, and no others.
func TestCodesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../server/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\n    Error:\n")
	_, rest, _ = strings.Cut(rest, "        code:\n")
	list, _, ok := strings.Cut(rest, "        message:")
	if !ok {
		t.Fatal("openapi.yaml has no schema Error with the properties code and message")
	}
	documented := map[string]string{} // statuses by code
	// One status may follow several codes, as in `a` and `b` 503.
	for _, m := range regexp.MustCompile("((?:`[a-z_]+`(?: and )?)+) ([0-9]{3})").FindAllStringSubmatch(list, -1) {
		for _, code := range regexp.MustCompile("[a-z_]+`").FindAllString(m[1], -1) {
			documented[strings.TrimSuffix(code, "`")] = m[2]
		}
	}
	for code, info := range codeTable {
		if documented[code] != strconv.Itoa(info.status) {
			t.Errorf("openapi.yaml has the status %q for %s, which has %d", documented[code], code, info.status)
		}
	}
	for code := range documented {
		if _, ok := codeTable[code]; !ok {
			t.Errorf("openapi.yaml has the code %s, which the table lacks", code)
		}
	}
}

// What a code of a server stands for has a kind in package driver, which no such code hides.
func TestCodesAgreeWithDriver(t *testing.T) {
	for code, info := range codeTable {
		class := driver.Classify(info.kind)
		if info.kind != nil && class.Code == CodeInternal {
			t.Errorf("%s stands for %v, which is no sentinel", code, info.kind)
		}
		if kind := driver.FromCode(code); kind != nil && (info.kind != kind || info.status != class.HTTP) {
			t.Errorf("%s is %v with status %d, and in package driver %v with %d", code, info.kind, info.status, kind, class.HTTP)
		}
	}
	if status := driver.Classify(os.ErrProcessDone); status.Code != CodeInternal || status.HTTP != CodeStatus(CodeInternal) {
		t.Errorf("an error of no kind is %+v", status)
	}
}
