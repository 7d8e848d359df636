package docs

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// Every page becomes text without marks of Markdown, in lines that fit.
func TestAllTopicsRender(t *testing.T) {
	for _, topic := range Topics() {
		for _, width := range []int{40, 80, 120} {
			text := topic.Render(width)
			if !strings.HasPrefix(text, topic.Title+"\n===") {
				t.Errorf("%s: begins with %.40q", topic.Name, text)
			}
			for line := range strings.Lines(text) {
				line = strings.TrimSuffix(line, "\n")
				code := strings.HasPrefix(line, codeIndent)
				switch {
				case !code && (strings.Contains(line, "**") || strings.Contains(line, "](") || strings.HasPrefix(line, "|") || strings.HasPrefix(line, "#")):
					t.Errorf("%s: Markdown is left: %q", topic.Name, line)
				case strings.HasPrefix(line, "```") || line != strings.TrimRight(line, " "):
					t.Errorf("%s: %q", topic.Name, line)
				case !code && utf8.RuneCountInString(line) > width && strings.Contains(strings.TrimLeft(line, " -"), " "):
					t.Errorf("%s: wider than %d: %q", topic.Name, width, line)
				}
			}
		}
	}
}

func TestRender(t *testing.T) {
	const source = "# A `title`\n\nText of **several** words, with [a page](cli.md#here),\nand [bucket.md](bucket.md).\n\n" +
		"- one two three four five six seven eight nine\n- next\n  goes on\n\n1. first\n\n```sh\nvole ls    # all\n\n| no table |\n```\n\n" +
		"| exit | means |\n|---|---|\n| 0 | `a\\|b` |\n\n## Wide\n| what | a | b |\n|---|---|---|\n| this one | much more than goes into a line | |\n| other | x | `` a`b `` |\n"
	const want = `A title
=======

Text of several words, with a page
('vole help cli'), and 'vole help
namespaces'.

- one two three four five six seven
  eight nine
- next goes on

1. first

    vole ls    # all

    | no table |

exit  means
-----------
0     a|b

Wide
----

this one
    a: much more than goes into a line

other
    a: x
    b: a` + "`" + `b
`
	if got := (Topic{Source: source}).Render(38); got != want {
		t.Errorf("got\n%s", got)
	}
}
