//go:build manpages

package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/volehq/vole/internal/manpages"
)

// main of the generator writes the manual pages: go run -tags manpages ./cmd/vole. It is
// not in the binary.
func main() {
	dir := flag.String("dir", "bin/man", "write the pages into this `directory`")
	date := flag.Int64("date", 0, "date of the pages, in `seconds` since 1970")
	flag.Parse()
	root := newRootCmd(newApp(strings.NewReader(""), io.Discard, io.Discard))
	if err := manpages.Write(root, *dir, buildVersion().Version, time.Unix(*date, 0).UTC()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
