package api

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/volehq/vole/driver"
)

// Bounds of a response that a client holds in memory. A decoded value may take a hundred times
// the bytes of its JSON, so bytes are not the only bound.
const (
	maxResponse   = 16 << 20
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

// Decode reads a server's response into out, a pointer to one of the types of this package, and
// checks whatever a client would use as a path, an address, a header, a size or a time: a server
// may be hostile. It reads and allocates a bounded amount. Errors match driver.ErrUnavailable if
// the response cannot be decoded, and driver.ErrCorrupt if it has values that no server sends.
func Decode(r io.Reader, out any) error {
	body, rerr := io.ReadAll(io.LimitReader(r, maxResponse+1))
	err := checkJSONBounds(body)
	if err == nil {
		err = json.Unmarshal(body, out)
	}
	// A server that refuses a request before all of it has arrived may reset the connection
	// after its response, so an error of reading matters only if the JSON is not whole.
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

// checkJSONBounds refuses a text that is too large, or whose values would take much more memory
// than it does. It does not check the syntax.
func checkJSONBounds(b []byte) error {
	if len(b) > maxResponse {
		return fmt.Errorf("it is larger than %d MiB", maxResponse>>20)
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
	s = clipText(s)
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

// clipText cuts a text for people to maxTextLen bytes.
func clipText(s string) string {
	if len(s) > maxTextLen {
		return strings.ToValidUTF8(s[:maxTextLen], "") + "..."
	}
	return s
}
