package main

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/profile"
)

// app is one run of the program: where its command reads and writes, the global flags, and
// what the command has open.
type app struct {
	stdin          io.Reader
	stdout, stderr *screen // for the program's own text; see screen

	// payload and payloadErr are the same streams for what a command passes on
	// without a look at it.
	payload, payloadErr io.Writer

	home        string // --home
	foreignHome bool   // --foreign-home
	profile     string // --profile
	json        bool   // --json
	quiet       bool   // --quiet
	bytes       bool   // --bytes

	chosen *profile.Choice // by resolveProfile; nil: not yet

	// What the command has open. endCommand closes it when the command has returned, so that
	// no command needs a function inside another for what it opens.
	store    *vole.Store // by openStore; nil: none
	opened   []io.Closer // file systems, directories, sandboxes; the last one is closed first
	serverOp string      // the operation in errors of a server that name none; see openServer

	helpErr     error       // of a request for help on what is no command
	interrupted func() bool // a signal has ended the command

	timeout time.Duration // --timeout; 0: none

	// started is true once cobra has accepted the command line. An error before
	// that is one of usage.
	started bool
}

// newApp is an app on these streams.
func newApp(stdin io.Reader, stdout, stderr io.Writer) *app {
	a := &app{stdin: stdin, payload: stdout, payloadErr: stderr}
	a.stdout, a.stderr = newScreen(stdout, &a.json), newScreen(stderr, &a.json)
	return a
}

// printf writes to standard output. Of its arguments those that are text are shown as
// value shows them.
func (a *app) printf(format string, args ...any) error {
	shown := make([]any, len(args))
	for i, arg := range args {
		shown[i] = arg
		switch v := reflect.ValueOf(arg); v.Kind() {
		case reflect.String:
			shown[i] = a.displayValue(v.String())
		case reflect.Struct, reflect.Pointer:
			shown[i] = a.displayValue(fmt.Sprint(arg))
		}
	}
	_, err := fmt.Fprintf(a.stdout, format, shown...)
	return err
}

// warnf writes one line to standard error.
func (a *app) warnf(format string, args ...any) {
	if a.json {
		json.NewEncoder(a.stderr).Encode(map[string]any{"warning": map[string]string{"message": fmt.Sprintf(format, args...)}})
		return
	}
	fmt.Fprintf(a.stderr, "vole: warning: %s\n", escapeControls(fmt.Sprintf(format, args...)))
}

// notef writes one line to standard error, for people.
func (a *app) notef(format string, args ...any) {
	fmt.Fprintf(a.stderr, "vole: %s\n", escapeControls(fmt.Sprintf(format, args...)))
}

// printJSON writes one JSON value to standard output, indented.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// usageErrorf returns an error of usage (exit code 2).
func usageErrorf(format string, args ...any) error {
	return driver.Errorf(vole.ErrInvalid, format, args...)
}
