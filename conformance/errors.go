package conformance

import (
	"errors"
	"fmt"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// checkErr describes how err differs from the expected error: it must be a *vole.Error,
// wrapped once, that matches want and has its class. It returns "" if err is right.
func checkErr(err, want error) string {
	if err == nil {
		return fmt.Sprintf("no error, want %q", want)
	}
	if !errors.Is(err, want) {
		return fmt.Sprintf("error %q, want %q", err, want)
	}
	e, ok := err.(*vole.Error) //nolint:errorlint // the outermost error is the one under test
	if !ok {
		return fmt.Sprintf("error %q is a %T, not a *vole.Error", err, err)
	}
	if e.Op == "" {
		return fmt.Sprintf("error %q names no operation", err)
	}
	if inner := (*vole.Error)(nil); errors.As(e.Err, &inner) {
		return fmt.Sprintf("error %q is wrapped twice", err)
	}
	if c := driver.Classify(want); c.Code != "internal" && driver.Classify(err).Code != c.Code {
		return fmt.Sprintf("error %q is classified as %s, want %s", err, driver.Classify(err).Code, c.Code)
	}
	return ""
}

// wantErr fails t unless err is what checkErr asks for.
func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if msg := checkErr(err, want); msg != "" {
		t.Errorf("%s: %s", what, msg)
	}
}

// wantAny is wantErr for places where the contract leaves more than one answer. A nil
// among wants means that success will do.
func wantAny(t testing.TB, what string, err error, wants ...error) {
	t.Helper()
	var msg string
	for _, want := range wants {
		if want == nil {
			if err == nil {
				return
			}
			continue
		}
		if msg = checkErr(err, want); msg == "" {
			return
		}
	}
	t.Errorf("%s: %v, want one of %q", what, err, wants)
}

// wantErrOf is wantErr that also looks at which volume the error names.
func wantErrOf(t testing.TB, what string, err, want error, op, volume string) {
	t.Helper()
	wantErr(t, what, err, want)
	e := (*vole.Error)(nil)
	if !errors.As(err, &e) {
		return
	}
	if e.Op != op || e.Volume != volume {
		t.Errorf("%s: error %q has operation %q and volume %q, want %q and %q", what, err, e.Op, e.Volume, op, volume)
	}
}

// ok fails t when err is not nil.
func ok(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// must ends t when err is not nil.
func must(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// equal fails t when got is not want.
func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}
