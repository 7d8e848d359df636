// Command testskips reads `go test -json` from standard input and prints what plain
// `go test` would: a line per package, and the output of tests that fail. It then
// lists the tests that were skipped, and fails when one was skipped for a reason that
// is not excused, so that a gate which runs as root cannot pass by skipping what
// needs root.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
)

// excused are reasons that hold on a machine with everything installed: what the
// kernel or the host cannot do, tests for the other side (ordinary users, other
// systems), and long forms that have a command of their own.
var excused = regexp.MustCompile(`(?i)` + strings.Join([]string{
	`\bgvisor\b`, `\brunsc\b`,
	`\bkernel\b`, `file system (has|does|supports) no`,
	`\bnot (be |as |run as )?root\b`, `ordinary user`, `unprivileged`,
	`\bonly on (macos|darwin)\b`,
	`\bthe backend (claims|does not|keeps no)\b`, `\bfor (disk|dir) volumes\b`, // of the conformance suite
	`-short\b`, `\bVOLE_[A-Z_]+\b`,
}, "|"))

// event is one line of go test -json; see `go doc test2json`.
type event struct {
	Action, Package, Test, Output string
}

func main() {
	bad, err := run(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testskips:", err)
	}
	if bad || err != nil {
		os.Exit(1)
	}
}

// run copies in to out as described above and reports whether anything failed.
func run(in io.Reader, out io.Writer) (bad bool, err error) {
	output := map[string]string{} // of tests that are not over, by package and name
	var skipped []string
	packages := 0
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			break
		}
		if err != nil {
			return true, err
		}
		var e event
		if json.Unmarshal([]byte(line), &e) != nil {
			fmt.Fprint(out, line) // a build error, or make's own words
			continue
		}
		key := e.Package + "\t" + e.Test
		switch {
		case e.Action == "output" && e.Test == "", e.Action == "build-output":
			if e.Output != "PASS\n" {
				fmt.Fprint(out, e.Output)
			}
		case e.Action == "output":
			output[key] += e.Output
		case e.Action == "fail":
			fmt.Fprint(out, withoutFrames(output[key]))
			bad = true
		case e.Action == "skip" && e.Test != "":
			reason := reasonOf(output[key])
			if !excused.MatchString(reason) {
				bad = true
				reason += "  <-- must run here"
			}
			skipped = append(skipped, fmt.Sprintf("skipped %s %s: %s", e.Package, e.Test, reason))
		case e.Action == "pass" && e.Test == "":
			packages++
		}
		if e.Action == "pass" || e.Action == "fail" || e.Action == "skip" {
			delete(output, key)
		}
	}
	for _, s := range skipped {
		fmt.Fprintln(out, s)
	}
	if packages == 0 {
		return true, fmt.Errorf("no package passed")
	}
	return bad, nil
}

// withoutFrames drops the lines that only -v prints.
func withoutFrames(output string) string {
	var kept strings.Builder
	for line := range strings.Lines(output) {
		if !strings.HasPrefix(line, "=== ") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// reasonOf returns what a test said before it was skipped, without go test's own lines.
func reasonOf(output string) string {
	var said []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ") {
			said = append(said, line)
		}
	}
	return strings.Join(said, " ")
}
