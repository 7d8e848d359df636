package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// jsonAt reads the value at a path such as ".", "0.name" or "0.attachments.0".
func jsonAt(ts *testscript.TestScript, file, path string) any {
	var v any
	text := ts.ReadFile(file)
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		ts.Fatalf("%s is not JSON: %v\n%s", file, err, text)
	}
	if dec.More() {
		ts.Fatalf("%s has more than one JSON value:\n%s", file, text)
	}
	if path == "." {
		return v
	}
	for step := range strings.SplitSeq(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			var ok bool
			if v, ok = x[step]; !ok {
				ts.Fatalf("%s: no %q in %v", file, step, x)
			}
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(x) {
				ts.Fatalf("%s: no element %q of %d", file, step, len(x))
			}
			v = x[i]
		default:
			ts.Fatalf("%s: no %q in %v", file, step, x)
		}
	}
	return v
}

func cmdKeys(ts *testscript.TestScript, neg bool, args []string) {
	obj, ok := jsonAt(ts, args[0], args[1]).(map[string]any)
	if !ok {
		ts.Fatalf("%s of %s is no object", args[1], args[0])
	}
	have := maps.Clone(obj)
	for _, k := range args[2:] {
		k, perhaps := strings.CutSuffix(k, "?")
		if _, ok := have[k]; !ok && !perhaps {
			ts.Fatalf("no key %q in %v", k, obj)
		}
		delete(have, k)
	}
	if len(have) > 0 {
		ts.Fatalf("undocumented keys: %v", slices.Sorted(maps.Keys(have)))
	}
}

func cmdValue(ts *testscript.TestScript, neg bool, args []string) {
	v := jsonAt(ts, args[0], args[1])
	s := fmt.Sprint(v)
	switch x := v.(type) {
	case []any: // its length
		s = fmt.Sprintf("[%d]", len(x))
	case map[string]any:
		b, _ := json.Marshal(x)
		s = string(b)
	}
	if (s == args[2]) == neg {
		ts.Fatalf("%s of %s is %s, want %s (negated: %v)", args[1], args[0], s, args[2], neg)
	}
}
