package main

import (
	"bufio"
	"slices"
	"strings"
	"unicode"
)

const (
	// tableBuffer is how many bytes of rows are held back to be aligned with all the
	// others: some 60,000 volumes. It bounds the memory that a long table takes.
	tableBuffer = 16 << 20

	cellOverhead = 32 // bytes that a cell takes beside its text, about

	columnGap = 2 // places between two columns

	// leastCut is the width below which no column is cut: less would not tell what it was.
	leastCut = 12
)

// table writes aligned columns. All rows line up unless they are more than tableBuffer;
// what follows then is at least as wide as what came before. Rows are held back until then, so
// nothing is printed before close unless the table is long.
type table struct {
	a        *app
	rows     [][]string
	buffered int   // bytes of rows
	widths   []int // of the columns, from the beginning of the table

	header    []string
	shortened []string // columns that are cut where the table is wider than the terminal
}

// newTable begins a table on standard output, with a line of titles if there are any.
func (a *app) newTable(header ...string) *table {
	t := &table{a: a, header: header}
	if len(header) > 0 {
		t.addRow(header...)
	}
	return t
}

// allowShortening names the columns that may be cut, so that a row stays one line of a terminal.
// Names and ids are not among them: people copy these.
func (t *table) allowShortening(columns ...string) *table {
	t.shortened = columns
	return t
}

// addRow adds a row, each cell as value shows it.
func (t *table) addRow(cells ...string) error {
	shown := make([]string, len(cells))
	for i, c := range cells {
		shown[i] = t.a.displayValue(c)
		t.buffered += len(shown[i]) + cellOverhead
	}
	if t.rows = append(t.rows, shown); t.buffered >= tableBuffer {
		return t.flushRows()
	}
	return nil
}

// addList adds a row for each value, of which only the first has the name; "-" when there is none.
func (t *table) addList(name string, values []string) {
	if len(values) == 0 {
		values = []string{"-"}
	}
	for _, value := range values {
		t.addRow(name, value)
		name = ""
	}
}

// close writes the rows that are not yet written.
func (t *table) close() error { return t.flushRows() }

// flushRows writes the rows that are held back, as wide as those before them at least.
func (t *table) flushRows() error {
	for _, cells := range t.rows {
		for i, c := range cells {
			if i == len(t.widths) {
				t.widths = append(t.widths, 0)
			}
			t.widths[i] = max(t.widths[i], cellWidth(c))
		}
	}
	widths := t.fitToWidth(slices.Clone(t.widths))
	b := bufio.NewWriterSize(t.a.stdout, 64<<10)
	for _, cells := range t.rows {
		for i, c := range cells {
			c = cutCell(c, widths[i])
			b.WriteString(c)
			if i < len(cells)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]+columnGap-cellWidth(c)))
			}
		}
		b.WriteByte('\n')
	}
	t.rows, t.buffered = nil, 0
	return b.Flush()
}

// fitToWidth narrows the columns that may be cut, the widest first, until a row fits the terminal.
// When it does not even so, the terminal breaks the line.
func (t *table) fitToWidth(widths []int) []int {
	room := t.a.stdout.terminalWidth()
	if room == 0 {
		return widths
	}
	total := columnGap * (len(widths) - 1)
	for _, w := range widths {
		total += w
	}
	for ; total > room; total-- {
		widest := -1
		for i := range widths {
			if i < len(t.header) && slices.Contains(t.shortened, t.header[i]) && widths[i] > leastCut && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		widths[widest]--
	}
	return widths
}

// cutCell shortens a cell to a width, and shows that it did.
func cutCell(s string, width int) string {
	if cellWidth(s) <= width {
		return s
	}
	n := 0
	for i, r := range s {
		if n += runeWidth(r); n >= width {
			return s[:i] + "…"
		}
	}
	return s
}

// cellWidth is how many places a cell takes on a line.
func cellWidth(s string) (n int) {
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

// runeWidth is how many places a rune takes. Marks stand above or below another rune and
// take none.
func runeWidth(r rune) int {
	if unicode.In(r, unicode.Mn, unicode.Me) {
		return 0
	}
	return 1
}
