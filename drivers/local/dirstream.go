//go:build unix

package local

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/beneath"
	"golang.org/x/sys/unix"
)

// dirStream implements driver.Dir for a dir volume. It reads the open directory, so it does not
// end when the directory is renamed.
type dirStream struct {
	f    *volumeFS
	opts driver.DirOptions

	mu     sync.Mutex // guards what follows; a stream has one position
	d      *os.File   // nil once closed
	sorted []dirName
	filled bool // sorted holds what is left
}

// dirName is a name in a directory, and its type if only names were asked for.
type dirName struct {
	name string
	kind fs.FileMode
}

// OpenDir implements driver.FS.
func (f *volumeFS) OpenDir(ctx context.Context, name string, opts driver.DirOptions) (driver.Dir, error) {
	if err := f.life.Enter(ctx); err != nil {
		return nil, err
	}
	defer f.life.Leave()
	d, err := beneath.OpenWithin(f.root, f.dataDir, name)
	if err != nil {
		return nil, f.explainError(err)
	}
	if name == "." {
		var st unix.Stat_t
		if unix.Fstat(int(d.Fd()), &st) == nil && st.Nlink == 0 {
			d.Close()
			return nil, errVolumeRemoved()
		}
	}
	return &dirStream{f: f, opts: opts, d: d}, nil
}

// Read implements driver.Dir.
func (s *dirStream) Read(ctx context.Context, n int) ([]driver.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.d == nil {
		return nil, driver.ErrClosed
	}
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		names, err := s.nextNames(n)
		if errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		if err != nil {
			return nil, translateError(err)
		}
		list, err := s.statEntries(names)
		if err != nil || len(list) > 0 {
			return list, translateError(err)
		}
		// All of them have been removed since they were read: read on.
	}
}

// nextNames returns up to n names: of a sorted stream from memory, otherwise from the directory.
func (s *dirStream) nextNames(n int) ([]dirName, error) {
	if !s.opts.Sorted {
		return s.readNames(n)
	}
	if !s.filled {
		all, err := s.readNames(-1)
		if err != nil {
			return nil, err
		}
		slices.SortFunc(all, func(a, b dirName) int { return strings.Compare(a.name, b.name) })
		s.sorted, s.filled = all, true
	}
	if len(s.sorted) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(s.sorted))
	list := s.sorted[:n]
	s.sorted = s.sorted[n:]
	return list, nil
}

// readNames reads up to n names of the open directory, or all for n < 0.
func (s *dirStream) readNames(n int) ([]dirName, error) {
	if s.opts.NamesOnly {
		entries, err := s.d.ReadDir(n)
		list := make([]dirName, len(entries))
		for i, e := range entries {
			list[i] = dirName{e.Name(), e.Type()}
		}
		return list, err
	}
	names, err := s.d.Readdirnames(n)
	list := make([]dirName, len(names))
	for i, name := range names {
		list[i].name = name
	}
	return list, err
}

// statEntries describes the named files. Names that no longer exist are left out.
func (s *dirStream) statEntries(names []dirName) ([]driver.Entry, error) {
	list := make([]driver.Entry, 0, len(names))
	fd := int(s.d.Fd())
	for _, n := range names {
		if s.opts.NamesOnly {
			list = append(list, driver.Entry{Name: n.name, Mode: n.kind})
			continue
		}
		var st unix.Stat_t
		err := unix.Fstatat(fd, n.name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, entryOfStat(n.name, &st))
	}
	return list, nil
}

// Close implements driver.Dir.
func (s *dirStream) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.d == nil {
		return nil
	}
	err := s.d.Close()
	s.d = nil
	return err
}
