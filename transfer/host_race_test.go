//go:build unix

package transfer

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Metadata is set on what the copy made, never on what somebody put in its place: a link
// to a file outside, or another name of one.
func TestMetadataOfWhatWasReplaced(t *testing.T) {
	top := t.TempDir()
	victim, dir := filepath.Join(top, "victim"), filepath.Join(top, "dst")
	if err := errors.Join(os.WriteFile(victim, nil, 0o600), os.Mkdir(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	h, err := OpenHost(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	to := h.newTarget(&Options{}).(*hostTree)
	at := filepath.Join(dir, "x")
	made := map[string]fs.FileMode{"fifo": fs.ModeNamedPipe | 0o666, "directory": fs.ModeDir | 0o777}
	swaps := map[string]func() error{
		"link":      func() error { return os.Symlink(victim, at) },
		"hard link": func() error { return os.Link(victim, at) },
		"own link":  func() error { return os.Symlink(".", at) },
		"fifo":      func() error { return errors.Join(unix.Mkfifo(at, 0o600), os.Link(at, at+"2")) },
	}
	for what, mode := range made {
		for how, swap := range swaps {
			os.Remove(at + "2")
			if err := errors.Join(os.Chmod(dir, 0o750), swap()); err != nil {
				t.Fatal(err)
			}
			it := &item{mode: mode, mtime: time.Unix(1, 0), nlink: 1, xattrs: map[string][]byte{"user.a": nil}}
			if err := to.setMetadata(t.Context(), "x", it); err == nil {
				t.Errorf("%s replaced by a %s: no error", what, how)
			}
			if info, err := os.Stat(victim); err != nil || info.Mode() != 0o600 || info.ModTime().Unix() == 1 {
				t.Errorf("%s replaced by a %s: %v, %v", what, how, info, err)
			}
			if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o750 {
				t.Errorf("%s replaced by a %s: %v, %v", what, how, info, err)
			}
			os.Remove(at)
		}
	}
}
