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
		lines = lines[r.renderBlock(lines):]
	}
	return strings.TrimLeft(r.out.String(), "\n")
}

// renderer collects the text of one page. Each block begins with an empty line; that before the
// first block is cut off at the end.
type renderer struct {
	width int
	out   strings.Builder
}

// listItem is the mark of an item of a list, with its indentation. Like inline it is compiled at the
// first use: few runs of the program render a page.
var listItem = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^( *)([-*]|[0-9]+\.) +`)
})

// renderBlock renders the block that lines begin with and returns how many lines it has.
func (r *renderer) renderBlock(lines []string) int {
	first := lines[0]
	switch {
	case strings.TrimSpace(first) == "":
		return 1
	case strings.HasPrefix(first, "#"):
		r.renderHeading(first)
		return 1
	case strings.HasPrefix(first, "```"):
		n := 1
		r.out.WriteByte('\n')
		for ; n < len(lines) && !strings.HasPrefix(lines[n], "```"); n++ {
			r.out.WriteString(strings.TrimRight(codeIndent+lines[n], " ") + "\n")
		}
		return min(n+1, len(lines))
	case strings.HasPrefix(first, "|"):
		n := countLeading(lines, func(l string) bool { return strings.HasPrefix(l, "|") })
		r.out.WriteByte('\n')
		r.renderTable(lines[:n])
		return n
	case listItem().MatchString(first):
		return r.renderList(lines)
	}
	n := countLeading(lines, continuesParagraph)
	r.out.WriteByte('\n')
	r.wrapText("", "", strings.Join(lines[:n], " "))
	return n
}

// countLeading is how many lines from the first one belong to a block.
func countLeading(lines []string, belongs func(string) bool) int {
	if n := slices.IndexFunc(lines, func(l string) bool { return !belongs(l) }); n >= 0 {
		return n
	}
	return len(lines)
}

// continuesParagraph reports whether a line belongs to the paragraph above it.
func continuesParagraph(l string) bool {
	return strings.TrimSpace(l) != "" && !strings.HasPrefix(l, "#") && !strings.HasPrefix(l, "|") && !strings.HasPrefix(l, "```") && !listItem().MatchString(l)
}

// renderHeading renders a heading, and a line under those of the first two levels.
func (r *renderer) renderHeading(line string) {
	text := stripMarkup(strings.TrimSpace(strings.TrimLeft(line, "#")))
	r.out.WriteByte('\n')
	r.wrapPlain("", "", text)
	if level := len(line) - len(strings.TrimLeft(line, "#")); level <= 2 {
		mark := []string{"=", "-"}[level-1]
		r.out.WriteString(strings.Repeat(mark, min(r.width, utf8.RuneCountInString(text))) + "\n")
	}
}

// renderList renders items that follow each other; what an item goes on with is indented.
func (r *renderer) renderList(lines []string) (n int) {
	r.out.WriteByte('\n')
	for n < len(lines) {
		mark := listItem().FindString(lines[n])
		if mark == "" {
			break
		}
		text := lines[n][len(mark):]
		for n++; n < len(lines) && continuesParagraph(lines[n]); n++ {
			text += " " + strings.TrimSpace(lines[n])
		}
		r.wrapText(mark, strings.Repeat(" ", len(mark)), text)
	}
	return n
}

// renderTable renders a table in columns if it is narrow enough. Else each row becomes its first
// cell, and the others below it, named by the heading if there are several.
func (r *renderer) renderTable(lines []string) {
	var rows [][]string
	for i, l := range lines {
		if i != 1 { // which only divides the heading from the rest
			rows = append(rows, splitTableRow(l))
		}
	}
	if r.renderColumns(rows) {
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

// columnGap is how many spaces stand between two columns.
const columnGap = 2

// renderColumns renders rows in columns, and a line under the first one, if all columns but the
// last leave enough of the width.
func (r *renderer) renderColumns(rows [][]string) bool {
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
	before := columnGap * last // what all columns but the last take
	for _, w := range widths[:last] {
		before += w
	}
	if before+min(widths[last], leastColumn) > r.width {
		return false
	}
	for i, row := range rows {
		line := ""
		for c, cell := range row[:min(last, len(row))] {
			line += cell + strings.Repeat(" ", widths[c]-utf8.RuneCountInString(cell)+columnGap)
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

// splitTableRow returns the cells of a row, as plain text.
func splitTableRow(line string) []string {
	const bar = "\x00" // for \| which is no border
	line = strings.Trim(strings.ReplaceAll(strings.TrimSpace(line), `\|`, bar), "|")
	row := strings.Split(line, "|")
	for i, c := range row {
		row[i] = stripMarkup(strings.TrimSpace(strings.ReplaceAll(c, bar, "|")))
	}
	return row
}

// wrapText is wrapPlain for text with marks of Markdown.
func (r *renderer) wrapText(first, rest, text string) { r.wrapPlain(first, rest, stripMarkup(text)) }

// wrapPlain writes text in lines of the width, the first behind one prefix, the others behind
// another. It breaks lines between words only, so a word that is too long sticks out: it is a
// command or an address, which somebody copies.
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

// stripMarkup returns a line of Markdown without its marks. What is in strong emphasis or the text of
// a link may have marks itself; code is taken as it is.
func stripMarkup(s string) string {
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
			b.WriteString(stripMarkup(group(3)))
		default:
			b.WriteString(replaceLinks(stripMarkup(group(4)), group(5)))
		}
		s = s[m[1]:]
	}
}

// replaceLinks is a link to another page as the command that shows it, or to elsewhere.
func replaceLinks(text, target string) string {
	file, _, _ := strings.Cut(target, "#")
	switch {
	case strings.Contains(target, "://") && text != target:
		return text + " <" + target + ">"
	case !strings.HasSuffix(file, ".md") || strings.Contains(file, "/"):
		return text
	case text == file:
		return "'vole help " + topicOfLink(file) + "'"
	}
	return text + " ('vole help " + topicOfLink(file) + "')"
}
