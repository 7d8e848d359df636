package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
)

// jsonArray writes a JSON array element by element, one to a line, so that a long
// listing takes no memory. Begin with newJSONArray and end with close.
type jsonArray struct {
	w   io.Writer
	buf bytes.Buffer
	enc *json.Encoder // to buf
	n   int
}

// newJSONArray writes to standard output, and nothing before the first element or close.
func (a *app) newJSONArray() *jsonArray {
	j := &jsonArray{w: a.stdout}
	j.enc = json.NewEncoder(&j.buf)
	j.enc.SetEscapeHTML(false)
	return j
}

// add writes one element.
func (j *jsonArray) add(v any) error {
	j.buf.Reset()
	if j.n++; j.n == 1 {
		j.buf.WriteString("[\n")
	} else {
		j.buf.WriteString(",\n")
	}
	if err := j.enc.Encode(v); err != nil {
		return err
	}
	_, err := j.w.Write(bytes.TrimSuffix(j.buf.Bytes(), []byte("\n")))
	return err
}

// close ends the array; one without elements is written as [].
func (j *jsonArray) close() error {
	end := "\n]\n"
	if j.n == 0 {
		end = "[]\n"
	}
	_, err := io.WriteString(j.w, end)
	return err
}

// formatSize shows a size in a table: rounded on a terminal, else, or with --bytes, as a bare
// number of bytes, for programs to compute with.
func (a *app) formatSize(s vole.Size) string {
	if isTerminal(a.stdout) && !a.bytes {
		return s.Human()
	}
	return strconv.FormatInt(int64(s), 10)
}

// isOutput reports whether what is written to the file named to goes where this program's own
// output goes, as to /dev/stdout: nothing else may be printed then.
func (a *app) isOutput(to string) bool {
	out, ok := a.payload.(*os.File)
	if to == "-" || !ok {
		return to == "-"
	}
	theirs, err := os.Stat(to)
	if err != nil {
		return false
	}
	ours, err := out.Stat()
	return err == nil && os.SameFile(ours, theirs)
}

// countOf is a number of things, as "1 file" and "2 files".
func countOf(n int64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// sizeInText shows a size in a sentence, with its unit.
func (a *app) sizeInText(s vole.Size) string {
	if isTerminal(a.stdout) {
		return s.Human()
	}
	return s.String()
}

// addBytesFlag gives a command that shows sizes --bytes.
func (a *app) addBytesFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.bytes, "bytes", false, "show sizes in bytes on a terminal too, not rounded")
}

// formatUsage shows what a volume holds, with "~" before a figure that may be wrong.
func (a *app) formatUsage(used vole.Size, stale bool) string {
	if stale {
		return "~" + a.formatSize(used)
	}
	return a.formatSize(used)
}

// formatLimit shows a volume's quota or capacity; 0: none.
func (a *app) formatLimit(limit vole.Size) string {
	if limit > 0 {
		return a.formatSize(limit)
	}
	return "-"
}

// limitOrNone is a volume's quota or capacity; 0: none.
func limitOrNone(info vole.Info) vole.Size {
	if info.Kind == vole.KindDisk {
		return info.Capacity
	}
	return info.Quota
}

// formatTime shows a time: as an age on a terminal, exact elsewhere.
func (a *app) formatTime(t time.Time) string {
	if isTerminal(a.stdout) {
		return formatAge(time.Since(t))
	}
	return t.UTC().Format(time.RFC3339)
}

// formatAge says how long ago something was, in the largest unit that is at least one.
func formatAge(d time.Duration) string {
	if d < 0 {
		return "in the future"
	}
	for _, u := range []struct {
		name string
		unit time.Duration
	}{
		{"year", 365 * 24 * time.Hour}, {"month", 30 * 24 * time.Hour}, {"week", 7 * 24 * time.Hour},
		{"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}, {"second", time.Second},
	} {
		if n := int(d / u.unit); n == 1 {
			return "1 " + u.name + " ago"
		} else if n > 1 {
			return fmt.Sprintf("%d %ss ago", n, u.name)
		}
	}
	return "now"
}

// formatLabels shows labels as k=v, sorted.
func formatLabels(l vole.Labels) string {
	if len(l) == 0 {
		return "-"
	}
	parts := make([]string, 0, len(l))
	for _, k := range slices.Sorted(maps.Keys(l)) {
		parts = append(parts, k+"="+l[k])
	}
	return strings.Join(parts, ",")
}

// nameJSON is a volume or a sandbox with which a command has done what it does.
type nameJSON struct {
	Name string `json:"name"` // as it was given
}

// namesJSON is each of the names as it is printed under --json.
func namesJSON(names []string) []nameJSON {
	list := make([]nameJSON, len(names))
	for i, name := range names {
		list[i] = nameJSON{name}
	}
	return list
}

// forEachName does something with each of the names and prints those where it was done.
func (a *app) forEachName(ctx context.Context, names []string, do func(name string) (done bool, err error)) error {
	return forEachRecord(ctx, a, namesJSON(names), func(n nameJSON) string { return n.Name }, func(n nameJSON) (bool, error) { return do(n.Name) })
}

// forEachRecord does something with each of the records and prints those where it was done: by
// name, or under --json as an array of them. One that fails does not keep the others from it.
func forEachRecord[T any](ctx context.Context, a *app, records []T, name func(T) string, do func(T) (done bool, err error)) error {
	var errs []error
	list := []T{}
	for _, record := range records {
		if err := ctx.Err(); err != nil {
			errs = append(errs, err)
			break
		}
		done, err := do(record)
		switch {
		case err != nil:
			errs = append(errs, err)
		case !done:
		case a.json:
			list = append(list, record)
		case !a.quiet:
			errs = append(errs, a.printf("%s\n", name(record)))
		}
	}
	if a.json {
		errs = append(errs, a.printJSON(list))
	}
	return errors.Join(errs...)
}
