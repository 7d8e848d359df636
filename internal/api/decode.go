package api

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/volehq/vole/driver"
)

// Bounds of an answer that a client holds in memory. A decoded value may take a hundred
// times the bytes of its JSON, so that what is bounded is not bytes alone.
const (
	maxAnswer     = 16 << 20
	maxObjects    = 1 << 17 // of JSON, and arrays
	maxValues     = 1 << 20 // of JSON in all
	maxDepth      = 16      // of the schemas: 4
	MaxPageLen    = 1000    // entries, volumes or records of one page
	maxCursorLen  = 4096    // bytes
	maxTokenLen   = 128     // bytes of the id of a session, handle, key, ...
	maxTextLen    = 8 << 10 // bytes of a text for people; the rest is cut off
	maxSecretLen  = 64 << 10
	maxXattrNames = 1 << 20 // bytes of the names of one file's attributes
)

// Decode reads an answer of a server into out, a pointer to one of the types of this
// package, and checks what a client would use as a path, an address, a header, a size or
// a time: a server may be hostile. What it reads and allocates is bounded. Errors match
// driver.ErrUnavailable when the answer cannot be decoded, and driver.ErrCorrupt when it
// has what no server sends.
func Decode(r io.Reader, out any) error {
	body, rerr := io.ReadAll(io.LimitReader(r, maxAnswer+1))
	err := checkJSON(body)
	if err == nil {
		err = json.Unmarshal(body, out)
	}
	// A server that refuses a request before it has come may reset the connection behind
	// its answer: what is whole counts.
	if err != nil && rerr != nil {
		err = rerr
	}
	if err != nil {
		return driver.Errorf(driver.ErrUnavailable, "cannot decode the server's response: %s", PlainText(err.Error()))
	}
	if err := Check(out); err != nil {
		return driver.Errorf(driver.ErrCorrupt, "the server's response is not acceptable: %s", PlainText(err.Error()))
	}
	return nil
}

// checkJSON refuses a text that is too large, or whose values would take much more memory
// than it does. It does not check the syntax.
func checkJSON(b []byte) error {
	if len(b) > maxAnswer {
		return fmt.Errorf("it is larger than %d MiB", maxAnswer>>20)
	}
	objects, values, depth := 0, 0, 0
	quoted := false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			objects++
			depth++
		case c == '}' || c == ']':
			depth--
		case c == ',':
			values++
		}
		if objects > maxObjects || values > maxValues || depth > maxDepth {
			return fmt.Errorf("it has more than %d objects, %d values or %d levels", maxObjects, maxValues, maxDepth)
		}
	}
	return nil
}

// PlainText makes a text from outside fit for a message: without control characters and
// others that a terminal obeys, on one line, and not too long.
func PlainText(s string) string {
	s = clip(s)
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsPrint(r):
			return r
		case unicode.IsSpace(r):
			return ' '
		}
		return unicode.ReplacementChar
	}, strings.ToValidUTF8(s, "\ufffd"))
}

// clip cuts off what is too much of a text for people.
func clip(s string) string {
	if len(s) > maxTextLen {
		return strings.ToValidUTF8(s[:maxTextLen], "") + "..."
	}
	return s
}
