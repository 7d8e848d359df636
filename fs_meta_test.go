package vole

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"testing"

	"github.com/volehq/vole/driver"
)

// stepsFS is a backend without Caps.WriteMeta, and notes what it is asked for.
type stepsFS struct {
	driver.FS
	steps []string
}

func (f *stepsFS) note(format string, args ...any) error {
	f.steps = append(f.steps, fmt.Sprintf(format, args...))
	return nil
}

func (f *stepsFS) WriteFile(_ context.Context, _ string, _ io.Reader, opts driver.WriteOptions) (int64, error) {
	return 0, f.note("write %v", opts.Mode)
}

func (f *stepsFS) Chown(_ context.Context, _ string, uid, gid int) error {
	return f.note("chown %d:%d", uid, gid)
}

func (f *stepsFS) Chmod(_ context.Context, _ string, mode fs.FileMode) error {
	return f.note("chmod %v", mode)
}

// A file whose metadata comes in several steps never has bits for an owner that it does not
// have yet, and is never open to more than it is in the end.
func TestMetaInSteps(t *testing.T) {
	for _, c := range []struct {
		m    FileMeta
		want []string
	}{
		{FileMeta{Mode: 0o640, UID: -1, GID: -1}, []string{"write -rw-r-----"}},
		{FileMeta{Mode: 0o755 | fs.ModeSetuid, UID: 5, GID: -1}, []string{"write -rwx------", "chown 5:-1", "chmod urwxr-xr-x"}},
		{FileMeta{Mode: 0o755 | fs.ModeSetgid, UID: -1, GID: 6}, []string{"write -rwx------", "chown -1:6", "chmod grwxr-xr-x"}},
		{FileMeta{Mode: 0, UID: -1, GID: -1}, []string{"write --w-------", "chmod ----------"}},
		{FileMeta{Mode: fs.ModeSetuid, UID: 5, GID: -1}, []string{"write --w-------", "chown 5:-1", "chmod u---------"}},
	} {
		d := &stepsFS{}
		f := &FS{d: d, vol: &Volume{}}
		if _, err := f.WriteFrom(t.Context(), "f", nil, WriteOptions{Meta: &c.m}); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(d.steps, c.want) {
			t.Errorf("%+v: %q, want %q", c.m, d.steps, c.want)
		}
	}
}
