package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// exitError ends the program with a given code. With a nil err nothing is printed:
// the code is passed through from a program that has spoken for itself.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// hinted is an error with a line of advice.
type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }

// withHint adds a line of advice to err when it matches kind.
func withHint(err, kind error, format string, args ...any) error {
	if err == nil || !errors.Is(err, kind) {
		return err
	}
	return &hinted{err, fmt.Sprintf(format, args...)}
}

// reportAndExitCode reports the error that a command returned and turns it into the exit code.
// Of several errors the first decides.
func (a *app) reportAndExitCode(err error) int {
	if err == nil {
		return driver.ExitOK
	}
	list := flattenErrors(err)
	code := a.exitCode(list[0])
	for _, e := range a.withoutCanceled(list) {
		a.reportError(e)
	}
	return code
}

// errInterrupted is what is said of all that a signal has ended.
var errInterrupted = driver.Errorf(context.Canceled, "interrupted")

// withoutCanceled puts one error, that says no more than that, in place of all those that
// only exist because a signal came: its sender knows why they do.
func (a *app) withoutCanceled(list []error) (rest []error) {
	if a.interrupted == nil || !a.interrupted() {
		return list
	}
	said := false
	for _, err := range list {
		silent := (*exitError)(nil)
		switch {
		case !errors.Is(err, context.Canceled), errors.As(err, &silent) && silent.err == nil:
			rest = append(rest, err)
		case !said:
			said = true
			if errors.As(err, &silent) {
				rest = append(rest, &exitError{silent.code, errInterrupted})
			} else {
				rest = append(rest, errInterrupted)
			}
		}
	}
	return rest
}

// flattenErrors lists the errors that errors.Join put together.
func flattenErrors(err error) []error {
	j, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var list []error
	for _, e := range j.Unwrap() {
		list = append(list, flattenErrors(e)...)
	}
	return list
}

// exitCode is the exit code for one error. Before the command line was accepted, every error is one
// of usage.
func (a *app) exitCode(err error) int {
	if e := (*exitError)(nil); errors.As(err, &e) {
		return e.code
	}
	if !a.started {
		return driver.ExitUsage
	}
	return driver.Classify(err).Exit
}

// errorJSON is an error on standard error under --json.
type errorJSON struct {
	Code     string `json:"code"`
	Message  string `json:"message"`
	Hint     string `json:"hint,omitempty"`
	Op       string `json:"op,omitempty"`
	Volume   string `json:"volume,omitempty"`
	Path     string `json:"path,omitempty"`
	ExitCode int    `json:"exit_code"`
}

// reportError writes err, with its hint, to standard error.
func (a *app) reportError(err error) {
	if e := (*exitError)(nil); errors.As(err, &e) && e.err == nil {
		return
	}
	hint := ""
	if h := (*hinted)(nil); errors.As(err, &h) {
		hint = h.hint
	}
	if !a.json {
		fmt.Fprintf(a.stderr, "vole: %s\n", escapeControls(err.Error()))
		if hint != "" {
			fmt.Fprintf(a.stderr, "hint: %s\n", escapeControls(hint))
		}
		return
	}
	out := errorJSON{Code: driver.Classify(err).Code, Message: err.Error(), Hint: hint, ExitCode: a.exitCode(err)}
	if !a.started {
		out.Code = "invalid_request"
	}
	if e := (*vole.Error)(nil); errors.As(err, &e) {
		out.Op, out.Volume, out.Path = e.Op, e.Volume, e.Path
		if e.Volume != "" && e.Path != "" {
			out.Path = driver.RootedPath(e.Path)
		}
	}
	enc := json.NewEncoder(a.stderr)
	enc.SetEscapeHTML(false)
	enc.Encode(map[string]errorJSON{"error": out})
}
