package cloud

import (
	"io/fs"
	"net/url"
	"strconv"
	"time"

	"github.com/volehq/vole/internal/api"
)

// withParams adds optional parameters to a query, as pairs of name and value, and returns it.
// Those whose value is empty are left out: the functions below return "" for a default.
func withParams(q url.Values, pairs ...string) url.Values {
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q
}

// formatFlag formats a flag, which is off by default.
func formatFlag(on bool) string {
	if on {
		return "true"
	}
	return ""
}

// formatFrom formats a number that is least or more; a smaller one stands for the default.
func formatFrom(least, n int) string {
	if n < least {
		return ""
	}
	return strconv.Itoa(n)
}

// formatTime formats a time; the zero time is left out.
func formatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// formatModeIfSet formats permission bits, of which 0 leaves the choice to the server.
func formatModeIfSet(mode fs.FileMode) string {
	if mode == 0 {
		return ""
	}
	return api.FormatMode(mode)
}

func offsetQuery(off int64) url.Values { return url.Values{"offset": {strconv.FormatInt(off, 10)}} }
