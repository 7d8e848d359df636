package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Each flag of each command refuses an empty value, as an unset variable of a script gives
// it, but those that give it a meaning.
func TestEmptyValuesOfFlagsAreRefused(t *testing.T) {
	mayBeEmpty := map[string]bool{"vole run --entrypoint": true}
	tried := 0
	var visit func(path []string)
	visit = func(path []string) {
		find := func() *cobra.Command {
			cmd, _, err := newRootCmd(newApp(strings.NewReader(""), new(bytes.Buffer), new(bytes.Buffer))).Find(path)
			if err != nil {
				t.Fatal(path, err)
			}
			return cmd
		}
		at := find()
		_ = at.ParseFlags(nil) // so that the flags of all commands are among its own
		at.Flags().VisitAll(func(f *pflag.Flag) {
			if !strings.HasPrefix(f.Value.Type(), "string") {
				return // no empty text is a number, a time, or true or false
			}
			tried++
			name := at.CommandPath() + " --" + f.Name
			for _, value := range []string{"", " "} {
				cmd := find()
				if err := cmd.ParseFlags([]string{"--" + f.Name + "=" + value}); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if err := refuseEmptyFlags(cmd); (err == nil) != mayBeEmpty[name] {
					t.Errorf("%s=%q: %v", name, value, err)
				}
			}
		})
		for _, sub := range at.Commands() {
			visit(append(path[:len(path):len(path)], sub.Name()))
		}
	}
	visit(nil)
	if tried < 100 {
		t.Errorf("only %d flags were tried", tried)
	}
}
