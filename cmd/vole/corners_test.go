package main

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Values of numbers, sizes and times that no flag takes.
var (
	badInts      = []string{"-1", "-9223372036854775808", "9223372036854775808", "-9223372036854775809", "99999999999999999999999", "", " ", "1e3", "NaN", "1.5", "0x", "\x1b[31m"}
	badFloats    = []string{"-1", "-1e308", "1e309", "NaN", "nan", "Inf", "-Inf", "+infinity", "", "x"}
	badDurations = []string{"-1ns", "-2562047h47m16.854775808s", "2562047h47m16.854775807s", "2562048h", "1", "", "NaN", "1e3s", "9223372036854775808ns"}
	badSizes     = []string{"0", "-0", "-1", "9223372036854775808", "8388608T", "9007199254740992K", "0.5", "1e3", "NaN", "Inf", "", "99999999999999999999999999999999999999", "1.0000000000000001K", "1X", "K"}
	badCounts    = []string{"0", "-1", "9223372036854775808", "", "x", "1.5"}
	badExpiries  = []string{"0d", "-1d", "9223372036854775807w", "9223372036854775808d", "-9223372036854775808d", "", "2000-01-01", "10000-01-01", "d", "2562048h"}
)

// serveNumbers are the flags of serve that are tried. Where none of them were refused, it
// would end because it cannot listen.
var serveNumbers = []string{"rate", "burst", "timeout", "lease", "drain", "drain-delay", "export", "grace", "max-file", "memory", "unreferenced"}

// badValues returns what a flag must refuse; nil: it takes no number.
func badValues(f *pflag.Flag) []string {
	switch f.Value.Type() {
	case "int", "int64", "uint", "uint32", "uint64":
		return badInts
	case "float64":
		return badFloats
	case "duration":
		return badDurations
	}
	switch f.Name {
	case "quota", "size", "memory", "max-file", "unreferenced":
		return badSizes
	case "pids":
		return badCounts
	case "expires":
		return badExpiries
	}
	return nil
}

// TestCornerFlags has each flag that takes a number, a size or a time refuse what makes
// no sense as one, with the exit code of usage and a message of one line. vole run says
// by its own code that it was not the command that failed.
func TestCornerFlags(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("VOLE_HOME", filepath.Join(dir, "home"))
	t.Setenv("VOLE_CONFIG", filepath.Join(dir, "config.json"))
	t.Setenv("VOLE_URL", "")
	if code := runCommandLine([]string{"create", "v"}, strings.NewReader(""), &bytes.Buffer{}, &bytes.Buffer{}); code != 0 {
		t.Fatal("no volume")
	}
	arguments := map[string][]string{
		"create": {"n"}, "set": {"v"}, "run": {"--", "true"}, "stop": {"nosuch"}, "fs cat": {"v:/f"}, "fs tree": {"v"}, "key create": {"k", "--scope", "read"},
		"serve": {"--dir", filepath.Join(dir, "ns"), "--listen", "unix:" + filepath.Join(dir, "missing", "s")}, "bucket sweep": {"--dir", filepath.Join(dir, "ns")},
	}
	tried := 0
	var visit func(cmd *cobra.Command, path []string)
	visit = func(cmd *cobra.Command, path []string) {
		for _, c := range cmd.Commands() {
			visit(c, append(slices.Clone(path), c.Name()))
		}
		cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			if path[0] == "serve" && !slices.Contains(serveNumbers, f.Name) {
				return
			}
			for _, value := range badValues(f) {
				tried++
				line := slices.Concat(path, []string{"--" + f.Name + "=" + value}, arguments[strings.Join(path, " ")])
				var stdout, stderr bytes.Buffer
				code := runCommandLine(line, strings.NewReader(""), &stdout, &stderr)
				if want := 2; code != want && !(path[0] == "run" && code == 125) || !strings.HasPrefix(stderr.String(), "vole: ") ||
					strings.Contains(stderr.String(), `\n`) {
					t.Errorf("vole %q: exit code %d, want %d\n%s", line, code, want, stderr.String())
				}
			}
		})
	}
	visit(newRootCmd(newApp(nil, &bytes.Buffer{}, &bytes.Buffer{})), nil)
	if tried < 150 {
		t.Errorf("only %d values were tried", tried)
	}
	for _, value := range badDurations {
		line := []string{"--timeout=" + value, "ls"}
		if value == "2562047h47m16.854775807s" {
			continue // an end that far away is no end
		}
		var stderr bytes.Buffer
		if code := runCommandLine(line, strings.NewReader(""), &bytes.Buffer{}, &stderr); code != 2 {
			t.Errorf("vole %q: exit code %d, want 2\n%s", line, code, stderr.String())
		}
	}
}
