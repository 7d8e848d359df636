//go:build unix

package local

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/local/internal/dirstream"
	"github.com/volehq/vole/internal/beneath"
	"golang.org/x/sys/unix"
)

// dirSource is a dirstream.Source on a directory of the host. It reads the open directory, so it
// does not end when the directory is renamed. A sorted stream keeps names alone in memory.
type dirSource struct {
	*os.File
	fsys      *volumeFS // explains errors: reading a directory that was removed is one
	namesOnly bool
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
	if name == "." && isDeleted(d) {
		d.Close()
		return nil, errVolumeRemoved()
	}
	return dirstream.New(dirSource{d, f, opts.NamesOnly}, opts.Sorted), nil
}

// ReadBatch reads names, with types if nothing else is asked for.
func (s dirSource) ReadBatch(n int) ([]dirName, error) {
	if s.namesOnly {
		entries, err := s.ReadDir(n)
		list := make([]dirName, len(entries))
		for i, e := range entries {
			list[i] = dirName{e.Name(), e.Type()}
		}
		return list, s.fsys.explainError(err)
	}
	names, err := s.Readdirnames(n)
	list := make([]dirName, len(names))
	for i, name := range names {
		list[i].name = name
	}
	return list, s.fsys.explainError(err)
}

func (s dirSource) NameOf(n dirName) string { return n.name }

// Describe describes the named files. Names that no longer exist are left out.
func (s dirSource) Describe(names []dirName) ([]driver.Entry, error) {
	list := make([]driver.Entry, 0, len(names))
	for _, n := range names {
		if s.namesOnly {
			list = append(list, driver.Entry{Name: n.name, Mode: n.kind})
			continue
		}
		st, err := resolved{parent: s.File, name: n.name}.lstat()
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, translateError(err)
		}
		list = append(list, entryOfStat(n.name, &st))
	}
	return list, nil
}
