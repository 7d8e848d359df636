// Package manpages writes the manual pages of a command line from its commands, their help
// and their flags. Only the generator and tests link it, never the binary.
package manpages

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"
)

// Write writes a page NAME-SUBCOMMAND.1 of each command into dir, which it makes if it is
// missing. The same commands, version and date give the same bytes. It changes the texts of
// the commands: root is of no other use afterwards.
func Write(root *cobra.Command, dir, version string, date time.Time) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	escapeTexts(root)
	root.DisableAutoGenTag = true // it has the date of the day
	header := &doc.GenManHeader{Section: "1", Source: root.Name() + " " + version, Manual: "Manual of " + root.Name(), Date: &date}
	if err := doc.GenManTree(root, header, dir); err != nil {
		return fmt.Errorf("manual pages: %w", err)
	}
	return nil
}

// escapeTexts makes the plain texts of a command, its flags and its subcommands the
// Markdown that package doc takes them for.
func escapeTexts(cmd *cobra.Command) {
	cmd.InitDefaultHelpFlag() // package doc adds it, too late to be escaped
	if cmd.Long == "" {
		cmd.Long = cmd.Short
	}
	cmd.Short, cmd.Long = escapeRoff(cmd.Short), escapeParagraphs(cmd.Long)
	cmd.NonInheritedFlags().VisitAll(func(flag *pflag.Flag) {
		// The name of the value stands in backquotes.
		flag.Usage = escapeRoff(strings.ReplaceAll(flag.Usage, "`", ""))
	})
	for _, sub := range cmd.Commands() {
		escapeTexts(sub)
	}
}

var markdown = strings.NewReplacer(`\`, `\\`, "`", "\\`", `*`, `\*`, `_`, `\_`, `<`, `\<`, `>`, `\>`, `[`, `\[`, `]`, `\]`, `&`, `\&`, `~`, `\~`, `#`, `\#`)

func escapeRoff(text string) string { return markdown.Replace(text) }

// escapeParagraphs is escape for a text whose indented lines are examples or tables.
func escapeParagraphs(text string) string {
	const fence = "```"
	var out []string
	inBlock := false
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		indented := strings.HasPrefix(line, "  ")
		if indented != inBlock {
			out, inBlock = append(out, fence), indented
			if !indented {
				out = append(out, "") // a paragraph begins
			}
		}
		if !indented {
			line = escapeRoff(line)
		}
		out = append(out, line)
	}
	if inBlock {
		out = append(out, fence)
	}
	return strings.Join(out, "\n")
}
