package main

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

// printList prints a list as newListing does, but under --json as one indented value.
func printList[T any](a *app, list []T, tab *table, name func(T) string, row func(T) []string) error {
	if a.json {
		return a.printJSON(list)
	}
	return newListing(a, tab, name, row).printAll(list)
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
