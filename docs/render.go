package docs

import (
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

// codeIndent goes before lines of code, and before what a term of a table means.
const codeIndent = "    "

// Render returns the page as text that is at most width characters wide, except for code and
// for words that are longer. Of Markdown it knows what the pages use: headings, paragraphs,
// lists, tables, fenced code, code, strong emphasis and links.
func (t Topic) Render(width int) string {
	r := renderer{width: max(width, 20)}
	lines := strings.Split(strings.TrimRight(t.Source, "\n"), "\n")
	for len(lines) > 0 {
		lines = lines[r.block(lines):]
	}
	return strings.TrimLeft(r.out.String(), "\n")
}

type renderer struct {
	width int
	out   strings.Builder
}

var listItem = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^( *)([-*]|[0-9]+\.) +`)
})

// block renders the block that lines begin with and returns how many lines it has.
func (r *renderer) block(lines []string) int {
	first := lines[0]
	switch {
	case strings.TrimSpace(first) == "":
		return 1
	case strings.HasPrefix(first, "#"):
		r.heading(first)
		return 1
	case strings.HasPrefix(first, "```"):
		n := 1
		r.out.WriteByte('\n')
		for ; n < len(lines) && !strings.HasPrefix(lines[n], "```"); n++ {
			r.out.WriteString(strings.TrimRight(codeIndent+lines[n], " ") + "\n")
		}
		return min(n+1, len(lines))
	case strings.HasPrefix(first, "|"):
		n := count(lines, func(l string) bool { return strings.HasPrefix(l, "|") })
		r.out.WriteByte('\n')
		r.table(lines[:n])
		return n
	case listItem().MatchString(first):
		return r.list(lines)
	}
	n := count(lines, isText)
	r.out.WriteByte('\n')
	r.wrap("", "", strings.Join(lines[:n], " "))
	return n
}

// count is how many lines from the first one are of a kind.
func count(lines []string, is func(string) bool) int {
	if n := slices.IndexFunc(lines, func(l string) bool { return !is(l) }); n >= 0 {
		return n
	}
	return len(lines)
}

// isText reports whether a line goes on a paragraph.
func isText(l string) bool {
	return strings.TrimSpace(l) != "" && !strings.HasPrefix(l, "#") && !strings.HasPrefix(l, "|") && !strings.HasPrefix(l, "```") && !listItem().MatchString(l)
}

func (r *renderer) heading(line string) {
	text := plainText(strings.TrimSpace(strings.TrimLeft(line, "#")))
	r.out.WriteByte('\n')
	r.wrapPlain("", "", text)
	if level := len(line) - len(strings.TrimLeft(line, "#")); level <= 2 {
		mark := []string{"=", "-"}[level-1]
		r.out.WriteString(strings.Repeat(mark, min(r.width, utf8.RuneCountInString(text))) + "\n")
	}
}

// list renders items that follow each other; what an item goes on with is indented.
func (r *renderer) list(lines []string) (n int) {
	r.out.WriteByte('\n')
	for n < len(lines) {
		mark := listItem().FindString(lines[n])
		if mark == "" {
			break
		}
		text := lines[n][len(mark):]
		for n++; n < len(lines) && isText(lines[n]); n++ {
			text += " " + strings.TrimSpace(lines[n])
		}
		r.wrap(mark, strings.Repeat(" ", len(mark)), text)
	}
	return n
}

// table renders a table in columns if it is narrow enough. Else each row becomes its first
// cell, and the others below it, named by the heading if there are several.
func (r *renderer) table(lines []string) {
	var rows [][]string
	for i, l := range lines {
		if i != 1 { // which only divides the heading from the rest
			rows = append(rows, cells(l))
		}
	}
	if r.columns(rows) {
		return
	}
	head := rows[0]
	for i, row := range rows[1:] {
		if i > 0 {
			r.out.WriteByte('\n')
		}
		r.wrapPlain("", codeIndent, row[0])
		for c := 1; c < len(row); c++ {
			switch {
			case row[c] == "":
			case len(head) > 2 && c < len(head) && head[c] != "":
				r.wrapPlain(codeIndent+head[c]+": ", codeIndent+"  ", row[c])
			default:
				r.wrapPlain(codeIndent, codeIndent, row[c])
			}
		}
	}
}

// leastColumn is the least width of a last column whose cells are wrapped.
const leastColumn = 30

// columns renders rows in columns, and a line under the first one, if all columns but the
// last leave enough of the width.
func (r *renderer) columns(rows [][]string) bool {
	var widths []int
	for _, row := range rows {
		for c, cell := range row {
			if c == len(widths) {
				widths = append(widths, 0)
			}
			widths[c] = max(widths[c], utf8.RuneCountInString(cell))
		}
	}
	last := len(widths) - 1
	before := 2 * last
	for _, w := range widths[:last] {
		before += w
	}
	if before+min(widths[last], leastColumn) > r.width {
		return false
	}
	for i, row := range rows {
		line := ""
		for c, cell := range row[:min(last, len(row))] {
			line += cell + strings.Repeat(" ", widths[c]-utf8.RuneCountInString(cell)+2)
		}
		if len(row) > last {
			r.wrapPlain(line, strings.Repeat(" ", before), row[last])
		} else {
			r.wrapPlain(line, "", "")
		}
		if i == 0 {
			r.out.WriteString(strings.Repeat("-", min(before+widths[last], r.width)) + "\n")
		}
	}
	return true
}

// cells returns the cells of a row, as plain text.
func cells(line string) []string {
	const bar = "\x00" // for \| which is no border
	line = strings.Trim(strings.ReplaceAll(strings.TrimSpace(line), `\|`, bar), "|")
	row := strings.Split(line, "|")
	for i, c := range row {
		row[i] = plainText(strings.TrimSpace(strings.ReplaceAll(c, bar, "|")))
	}
	return row
}

func (r *renderer) wrap(first, rest, text string) { r.wrapPlain(first, rest, plainText(text)) }

// wrapPlain writes text in lines of the width, the first behind one prefix, the others behind
// another.
func (r *renderer) wrapPlain(first, rest, text string) {
	line, empty := first, true
	for word := range strings.FieldsSeq(text) {
		if !empty && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > r.width {
			r.out.WriteString(line + "\n")
			line, empty = rest, true
		}
		if !empty {
			line += " "
		}
		line, empty = line+word, false
	}
	r.out.WriteString(strings.TrimRight(line, " ") + "\n")
}

// inline is code (in one pair of backticks or two), strong emphasis, or a link.
var inline = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile("``(.+?)``|`([^`]+)`|" + `\*\*(.+?)\*\*|\[([^\]]+)\]\(([^)\s]+)\)`)
})

// plainText returns a line of Markdown without its marks.
func plainText(s string) string {
	var b strings.Builder
	for {
		m := inline().FindStringSubmatchIndex(s)
		if m == nil {
			return b.String() + s
		}
		group := func(i int) string {
			if m[2*i] < 0 {
				return ""
			}
			return s[m[2*i]:m[2*i+1]]
		}
		b.WriteString(s[:m[0]])
		switch {
		case group(1) != "":
			b.WriteString(strings.TrimSpace(group(1)))
		case group(2) != "":
			b.WriteString(group(2))
		case group(3) != "":
			b.WriteString(plainText(group(3)))
		default:
			b.WriteString(linkText(plainText(group(4)), group(5)))
		}
		s = s[m[1]:]
	}
}

// linkText is a link to another page as the command that shows it, or to elsewhere.
func linkText(text, target string) string {
	file, _, _ := strings.Cut(target, "#")
	switch {
	case strings.Contains(target, "://") && text != target:
		return text + " <" + target + ">"
	case !strings.HasSuffix(file, ".md") || strings.Contains(file, "/"):
		return text
	case text == file:
		return "'vole help " + topicOf(file) + "'"
	}
	return text + " ('vole help " + topicOf(file) + "')"
}
