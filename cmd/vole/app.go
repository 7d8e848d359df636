package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/local"
	"golang.org/x/term"
)

// app is what the commands share: where they read and write, and the global flags.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	home  string // --home; "": the default home
	json  bool   // --json
	quiet bool   // --quiet

	timeout time.Duration // --timeout; 0: none

	// started is true once cobra has accepted the command line. An error before
	// that is one of usage.
	started bool
}

// errNoHome is what the error for a home that is not there matches.
var errNoHome = driver.Errorf(vole.ErrNotFound, "no volumes are kept there yet")

// homeDir is the absolute path of the home that the global flags name.
func (a *app) homeDir() (home string, err error) {
	if home = a.home; home == "" {
		if home, err = local.DefaultHome(); err != nil {
			return "", err
		}
	}
	return filepath.Abs(home)
}

// findHome returns the home, and an error that matches errNoHome when there is none.
func (a *app) findHome(ctx context.Context) (string, error) {
	home, err := a.homeDir()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return "", &vole.Error{Op: "open", Path: home, Err: err}
	}
	if _, err := os.Stat(filepath.Join(home, "volumes")); errors.Is(err, fs.ErrNotExist) {
		err := &vole.Error{Op: "open", Path: home, Err: errNoHome}
		return "", &hinted{err, "'vole create' makes a home there; --home and $VOLE_HOME name another one"}
	}
	return home, nil
}

// withStore runs fn on the opened store of a home that is there, and closes it. Only
// what makes a volume makes a home: a mistyped one is to be noticed.
func (a *app) withStore(ctx context.Context, fn func(s *vole.Store) error) error {
	if _, err := a.findHome(ctx); err != nil {
		return err
	}
	return a.withNewStore(ctx, fn)
}

// withNewStore is withStore that makes a home that is not there.
func (a *app) withNewStore(ctx context.Context, fn func(s *vole.Store) error) error {
	s, err := vole.Open(ctx, vole.Options{Home: a.home})
	if err != nil {
		return err
	}
	return errors.Join(fn(s), s.Close())
}

// withFS runs fn on the opened files of one volume and closes them.
func (a *app) withFS(ctx context.Context, ref string, opts vole.FSOptions, fn func(f *vole.FS) error) error {
	return a.withStore(ctx, func(s *vole.Store) error {
		v, err := s.Get(ctx, ref)
		if err != nil {
			return err
		}
		f, err := v.OpenFS(ctx, opts)
		if err != nil {
			return err
		}
		return errors.Join(fn(f), f.Close())
	})
}

// printf writes to standard output.
func (a *app) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(a.stdout, format, args...)
	return err
}

// warnf writes one line to standard error.
func (a *app) warnf(format string, args ...any) {
	if a.json {
		json.NewEncoder(a.stderr).Encode(map[string]any{"warning": map[string]string{"message": fmt.Sprintf(format, args...)}})
		return
	}
	fmt.Fprintf(a.stderr, "vole: warning: %s\n", plain(fmt.Sprintf(format, args...)))
}

// printJSON writes one JSON value to standard output, indented.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// isTerminal reports whether v is a terminal.
func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// usagef returns an error of usage (exit code 2).
func usagef(format string, args ...any) error {
	return driver.Errorf(vole.ErrInvalid, format, args...)
}
