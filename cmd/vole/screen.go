package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// Text from outside (names, labels, holders, link targets, messages of servers and
// runtimes) may hold sequences that a terminal obeys. Two layers keep them from it:
//
//   - printf, tables and messages quote or escape each value where it is put into a
//     line, so that one record stays one line and columns stay aligned;
//   - screen, through which everything but a command's payload passes, escapes
//     whatever comes through nevertheless.
//
// What a command was asked to pass on (the content of a file, the output of a
// sandbox) goes to app.payload and app.payloadErr as it is.

// screen is standard output or standard error as the program's own text passes
// through it. On a terminal it escapes what a terminal would obey. Under --json it
// does so everywhere, in JSON's notation: there such runes stand within strings only.
type screen struct {
	w        io.Writer
	terminal bool
	json     *bool // --json

	mu   sync.Mutex // guards held
	held []byte     // the beginning of a rune that a Write ended with
}

// newScreen is a screen that writes to w. json is read at each write: flags are parsed later.
func newScreen(w io.Writer, json *bool) *screen {
	return &screen{w: w, terminal: isTerminal(w), json: json}
}

// terminalWidth is how wide the terminal is; 0: none, or one that does not say.
func (s *screen) terminalWidth() int {
	f, ok := s.w.(*os.File)
	if !ok || !s.terminal {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// Write implements io.Writer. A rune may come in two writes, and its first bytes alone would look
// like what must be escaped, so an unfinished one is held back until the next.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.terminal && !*s.json {
		return s.w.Write(p)
	}
	b := append(s.held, p...)
	s.held = nil
	if n := partialRuneLen(b); n > 0 {
		s.held = append(s.held, b[len(b)-n:]...)
		b = b[:len(b)-n]
	}
	if err := s.writeEscaped(b); err != nil {
		return 0, err
	}
	return len(p), nil
}

// flushPartialRune writes what looks like the beginning of a rune and was not continued.
func (s *screen) flushPartialRune() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.held
	s.held = nil
	return s.writeEscaped(b)
}

// writeEscaped writes whole runes. Line ends and tabs are the program's own here: those of values
// were quoted before.
func (s *screen) writeEscaped(b []byte) error {
	escape := escapeRune
	if *s.json {
		escape = escapeJSONRune
	}
	if len(b) == 0 {
		return nil
	}
	text := string(b)
	keep := func(r rune) bool { return r == '\n' || r == '\t' }
	if needsEscape(text, keep) {
		text = escapeText(text, keep, escape)
	}
	_, err := io.WriteString(s.w, text)
	return err
}

// partialRuneLen returns how many bytes at the end of b are the beginning of a rune whose
// other bytes are missing.
func partialRuneLen(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		tail := b[len(b)-n:]
		if utf8.RuneStart(tail[0]) {
			if utf8.FullRune(tail) {
				return 0
			}
			return n
		}
	}
	return 0
}

// isControlRune reports whether a terminal may obey r, or let it change how other runes
// appear: control characters of C0 and C1, separators of lines and paragraphs, and
// format characters, such as those that change the direction of writing. The joiners,
// which many scripts and emoji need, are none of these.
func isControlRune(r rune) bool {
	if r == '\u200c' || r == '\u200d' {
		return false
	}
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}

// breaksLine reports whether programs that read lines or fields may take r for the end
// of one.
func breaksLine(r rune) bool {
	switch r {
	case '\n', '\r', '\t', '\v', '\f', '\x1c', '\x1d', '\x1e', '\u0085', '\u2028', '\u2029':
		return true
	}
	return false
}

// needsEscape reports whether s has a byte that is not UTF-8, or a rune that a terminal
// acts on and keep does not allow (nil: allows none).
func needsEscape(s string, keep func(rune) bool) bool {
	return !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool {
		return isControlRune(r) && (keep == nil || !keep(r))
	})
}

// escapeText replaces the runes and bytes that needsEscape finds. escape gives the notation of a rune,
// and of a single byte, as a negative number.
func escapeText(s string, keep func(rune) bool, escape func(rune) string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			b.WriteString(escape(-rune(s[0])))
		case isControlRune(r) && (keep == nil || !keep(r)):
			b.WriteString(escape(r))
		default:
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

// escapeRune gives a rune, or a byte as a negative number, in Go's notation.
func escapeRune(r rune) string {
	if r < 0 {
		return fmt.Sprintf(`\x%02x`, -r)
	}
	q := strconv.QuoteRuneToASCII(r)
	return q[1 : len(q)-1]
}

// escapeJSONRune gives a rune in JSON's notation. JSON has none for a byte.
func escapeJSONRune(r rune) string {
	switch {
	case r < 0:
		return `\ufffd`
	case r > 0xffff:
		r -= 0x10000
		return fmt.Sprintf(`\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
	}
	return fmt.Sprintf(`\u%04x`, r)
}

// escapeControls makes a message one line that is safe to show anywhere.
func escapeControls(s string) string {
	if !needsEscape(s, nil) {
		return s
	}
	return escapeText(s, nil, escapeRune)
}

// displayValue is s as a part of a line on standard output. On a terminal it is quoted when it
// has what a terminal acts on; elsewhere it stays as it is unless it would break the
// line, so that one record is one line.
func (a *app) displayValue(s string) string {
	if isTerminal(a.stdout) && needsEscape(s, nil) || strings.ContainsFunc(s, breaksLine) {
		return strconv.Quote(s)
	}
	return s
}

// displayFileName is the name or target of a file as value shows it. One that begins with a
// quotation mark is quoted too, so that it is not taken for another one, quoted.
func (a *app) displayFileName(name string) string {
	if strings.HasPrefix(name, `"`) {
		return strconv.Quote(name)
	}
	return a.displayValue(name)
}

// isTerminal reports whether v is a terminal.
func isTerminal(v any) bool {
	switch v := v.(type) {
	case *screen:
		return v.terminal
	case *os.File:
		return term.IsTerminal(int(v.Fd()))
	}
	return false
}
