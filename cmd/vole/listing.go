package main

import (
	"encoding/json"
	"errors"
)

// listing prints a stream of records in the form that the flags ask for: under --json an array,
// with --quiet a name a line, else the rows of a table.
type listing[T any] struct {
	a    *app
	arr  *jsonArray // nil: not --json
	tab  *table     // nil: names alone
	name func(record T) string
	row  func(record T) []string
}

// newListing prints records by name and row, the latter into tab.
func newListing[T any](a *app, tab *table, name func(T) string, row func(T) []string) *listing[T] {
	l := &listing[T]{a: a, tab: tab, name: name, row: row}
	switch {
	case a.json:
		l.arr = a.newJSONArray()
	case a.quiet:
		l.tab = nil
	}
	return l
}

// printRecord prints one record.
func (l *listing[T]) printRecord(record T) error {
	switch {
	case l.arr != nil:
		return l.arr.add(record)
	case l.tab == nil:
		return l.a.printf("%s\n", l.name(record))
	}
	return l.tab.addRow(l.row(record)...)
}

// close ends the output. A table prints only then what it holds back to align its columns.
func (l *listing[T]) close() error {
	switch {
	case l.arr != nil:
		return l.arr.close()
	case l.tab == nil:
		return nil
	}
	return l.tab.close()
}

// printAll prints all records and ends the output.
func (l *listing[T]) printAll(records []T) error {
	for _, record := range records {
		if err := l.printRecord(record); err != nil {
			return err
		}
	}
	return l.close()
}

// printList prints a list, unless err says that there is none, as newListing does, but under
// --json as one indented value.
func printList[T any](a *app, list []T, err error, tab *table, name func(T) string, row func(T) []string) error {
	switch {
	case err != nil:
		return err
	case a.json:
		return a.printJSON(list)
	}
	return newListing(a, tab, name, row).printAll(list)
}

// pagedListing is a listing that ends with the cursor of what follows, if anything. Under --json
// --limit it is a page, an object.
type pagedListing[T any] struct {
	*listing[T]
	what  string // the records, in the page and in messages: volumes
	paged bool
	begun bool // the beginning of the page is printed
}

// newPagedListing prints by l; paged: --limit is given.
func newPagedListing[T any](what string, paged bool, l *listing[T]) *pagedListing[T] {
	return &pagedListing[T]{listing: l, what: what, paged: paged && l.a.json}
}

// beginPage prints what goes before the records of a page. A listing that fails before its first
// record prints nothing.
func (l *pagedListing[T]) beginPage() error {
	if !l.paged || l.begun {
		return nil
	}
	l.begun = true
	return l.a.printf("{%q:", l.what)
}

// printRecord prints one record.
func (l *pagedListing[T]) printRecord(record T) error {
	if err := l.beginPage(); err != nil {
		return err
	}
	return l.listing.printRecord(record)
}

// close ends the output; next is the cursor of what follows.
func (l *pagedListing[T]) close(next string) error {
	if !l.a.json {
		defer l.a.noteMorePages(l.what, next)
	}
	if err := errors.Join(l.beginPage(), l.listing.close()); err != nil || !l.paged {
		return err
	}
	quoted, err := json.Marshal(next)
	if err != nil {
		return err
	}
	return l.a.printf(",\"next\":%s}\n", quoted)
}

// noteMorePages tells where the next page begins, out of the way of the listing.
func (a *app) noteMorePages(what, next string) {
	if next != "" {
		a.notef("more %s follow; continue with --cursor %s", what, next)
	}
}

// printResult prints what a command has done: result under --json, nothing with --quiet, else text.
func (a *app) printResult(result any, format string, args ...any) error {
	switch {
	case a.json:
		return a.printJSON(result)
	case a.quiet:
		return nil
	}
	return a.printf(format, args...)
}
