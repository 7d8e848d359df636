// Command skips watches over the tests of the gate. It reads `go test -json` from standard
// input and prints what plain `go test` would: a line per package, and the output of tests that
// fail. Then it lists the tests that were skipped, and fails when one was skipped for a reason
// that is not excused, so that a gate which runs as root cannot pass by skipping what needs
// root.
//
//	go test -json ./... | skips [-keep FILE] [-with FILE]
//
// The gate runs the tests in two parts. With -keep the first part leaves the names of its tests
// in FILE; with -with the second part adds them to its own, and fails when a test of the module
// is in neither.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
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
	`\bVOLE_[A-Z_]+\b`,
}, "|"))

// event is one line of go test -json; see `go doc test2json`.
type event struct {
	Action, Package, Test, Output string
}

func main() {
	keep := flag.String("keep", "", "write the names of the tests that ran to this file")
	with := flag.String("with", "", "read the names of the tests that ran before from this file, and miss none of the module")
	flag.Parse()
	ran := testNames{}
	bad, err := filterEvents(os.Stdin, os.Stdout, ran)
	if err == nil && *keep != "" {
		err = ran.save(*keep)
	}
	if err == nil && *with != "" {
		var missing []string
		missing, err = missingTests(ran, *with)
		for _, name := range missing {
			fmt.Println("no part of the gate ran", name)
			bad = true
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "skips:", err)
	}
	if bad || err != nil {
		os.Exit(1)
	}
}

// filterEvents copies in to out as described above, adds the tests that it sees to ran, and
// reports whether anything failed.
func filterEvents(in io.Reader, out io.Writer, ran testNames) (bad bool, err error) {
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
		case e.Action == "run":
			ran.add(e.Package, e.Test)
		case e.Action == "output" && e.Test == "", e.Action == "build-output":
			if e.Output != "PASS\n" {
				fmt.Fprint(out, e.Output)
			}
		case e.Action == "output":
			output[key] += e.Output
		case e.Action == "fail":
			fmt.Fprint(out, withoutRunLines(output[key]))
			bad = true
		case e.Action == "skip" && e.Test != "":
			reason := skipReason(output[key])
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

// withoutRunLines drops the lines that only -v prints.
func withoutRunLines(output string) string {
	var kept strings.Builder
	for line := range strings.Lines(output) {
		if !strings.HasPrefix(line, "=== ") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// skipReason returns the output of a skipped test without go test's own lines.
func skipReason(output string) string {
	var said []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ") {
			said = append(said, line)
		}
	}
	return strings.Join(said, " ")
}
