package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/volehq/vole"
)

// After a signal one line says so, whatever failed because of it; other errors stay.
func TestInterruptedIsSaidOnce(t *testing.T) {
	canceled := &vole.Error{Op: "cp", Volume: "v", Err: fmt.Errorf("reading: %w", context.Canceled)}
	for _, c := range []struct {
		err  error
		code int
		said string
	}{
		{canceled, 130, "vole: interrupted\n"},
		{errors.Join(canceled, errors.New("other"), context.Canceled), 130, "vole: interrupted\nvole: other\n"},
		{&exitError{130, canceled}, 130, "vole: interrupted\n"},
		{&exitError{code: 130}, 130, ""},
		{errors.New("other"), 1, "vole: other\n"},
	} {
		var said bytes.Buffer
		a := newApp(strings.NewReader(""), io.Discard, &said)
		a.started, a.interrupted = true, func() bool { return true }
		if code := a.reportAndExitCode(c.err); code != c.code || said.String() != c.said {
			t.Errorf("%v: exit code %d, %q", c.err, code, said.String())
		}
		a.interrupted = func() bool { return false }
		said.Reset()
		if a.reportAndExitCode(c.err); strings.Contains(said.String(), "interrupted") {
			t.Errorf("%v without a signal: %q", c.err, said.String())
		}
	}
}
