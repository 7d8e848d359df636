//go:build linux

package main

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// shownOnTerminal is what a table looks like on a terminal of that many columns.
func shownOnTerminal(t *testing.T, columns uint16, fill func(a *app)) []string {
	t.Helper()
	ours, tty := openPty(t)
	if err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}); err != nil {
		t.Fatal(err)
	}
	fill(newApp(strings.NewReader(""), tty, io.Discard))
	fmt.Fprint(tty, "end\n")
	var out strings.Builder
	for buf := make([]byte, 4096); !strings.HasSuffix(out.String(), "end\r\n"); {
		n, err := ours.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(buf[:n])
	}
	return strings.Split(strings.TrimSuffix(out.String(), "\r\nend\r\n"), "\r\n")
}

// Rows fit the terminal: long labels are cut, names never.
func TestTableFitsTerminal(t *testing.T) {
	name := strings.Repeat("n", 30)
	for columns, labels := range map[uint16]string{
		200: "team=" + strings.Repeat("ä", 60), 80: "team=" + strings.Repeat("ä", 28) + "…", 60: "team=" + strings.Repeat("ä", 8) + "…",
	} {
		rows := shownOnTerminal(t, columns, func(a *app) {
			table := a.newTable("NAME", "LABELS", "CREATED").allowShortening("LABELS")
			table.addRow(name, "team="+strings.Repeat("ä", 60), "1 minute ago")
			table.addRow("short", "-", "now")
			table.close()
		})
		if len(rows) != 3 || !strings.HasPrefix(rows[1], name+"  "+labels+"  1 minute ago") {
			t.Errorf("%d columns: %q", columns, rows)
		}
		for _, row := range rows {
			if cellWidth(row) > int(columns) {
				t.Errorf("%d columns: %q has %d", columns, row, cellWidth(row))
			}
		}
	}
	narrow := shownOnTerminal(t, 20, func(a *app) {
		table := a.newTable("NAME", "LABELS").allowShortening("LABELS")
		table.addRow(name, "abcdefghijklmnopq")
		table.close()
	})
	if narrow[1] != name+"  abcdefghijk…" {
		t.Errorf("a narrow terminal: %q", narrow)
	}
}

// All rows of a long listing line up, whichever of its pages has the widest cell.
func TestTableOfManyPagesLinesUp(t *testing.T) {
	var out strings.Builder
	a := newApp(strings.NewReader(""), &out, io.Discard)
	table := a.newTable("NAME", "KIND")
	for i := range 3000 {
		table.addRow(fmt.Sprint("v", i), "dir")
	}
	table.addRow(strings.Repeat("n", 100), "disk")
	table.close()
	for row := range strings.Lines(out.String()) {
		if strings.TrimSpace(row[100:102]) != "" || row[102] == ' ' {
			t.Fatalf("out of line: %q", row)
		}
	}
}

// A table of any length takes a bounded memory.
func TestTableIsWrittenWhenItsBufferIsFull(t *testing.T) {
	var out strings.Builder
	a := newApp(strings.NewReader(""), &out, io.Discard)
	table := a.newTable("NAME", "LABELS")
	label := strings.Repeat("l", 1<<20)
	for range tableBuffer/len(label) + 1 {
		table.addRow("v", label)
	}
	if out.Len() < tableBuffer-len(label) || table.buffered > len(label)+100 {
		t.Errorf("%d bytes are written, %d held back", out.Len(), table.buffered)
	}
}

// On a terminal sizes are rounded, unless --bytes asks for all; in a pipe they are bytes.
func TestSizesOfTables(t *testing.T) {
	show := func(a *app) { fmt.Fprintln(a.stdout, a.formatSize(1010<<10)) }
	if rows := shownOnTerminal(t, 80, show); rows[0] != "1010KiB" {
		t.Errorf("%q", rows)
	}
	exact := func(a *app) { a.bytes = true; show(a) }
	if rows := shownOnTerminal(t, 80, exact); rows[0] != "1034240" {
		t.Errorf("%q", rows)
	}
	var out strings.Builder
	show(newApp(strings.NewReader(""), &out, io.Discard))
	if out.String() != "1034240\n" {
		t.Errorf("%q", out.String())
	}
}
