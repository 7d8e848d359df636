//go:build unix

package disk

import (
	"context"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/local/internal/dirstream"
	"github.com/volehq/vole/ext4"
)

// dirStream implements driver.Dir for a disk volume. Each Read is an operation of the FS.
type dirStream struct {
	*dirstream.Stream[ext4.Info]
	f *volumeFS
}

// OpenDir implements driver.FS.
func (f *volumeFS) OpenDir(ctx context.Context, path string, opts driver.DirOptions) (driver.Dir, error) {
	d, err := readValue(ctx, f, func() (*ext4.Dir, error) { return f.fs.OpenDir(path, opts.NamesOnly) })
	if err != nil {
		return nil, err
	}
	return dirStream{dirstream.New(dirSource{d, opts.NamesOnly}, opts.Sorted), f}, nil
}

// Read implements driver.Dir.
func (s dirStream) Read(ctx context.Context, n int) ([]driver.Entry, error) {
	return readValue(ctx, s.f, func() ([]driver.Entry, error) { return s.Stream.Read(ctx, n) })
}

// dirSource is a dirstream.Source. It reads whole entries: ext4 has them at hand.
type dirSource struct {
	*ext4.Dir
	namesOnly bool
}

func (s dirSource) ReadBatch(n int) ([]ext4.Info, error) {
	list, err := s.Dir.Read(n)
	return list, translateError(err)
}

func (s dirSource) NameOf(info ext4.Info) string { return info.Name }

func (s dirSource) Describe(list []ext4.Info) ([]driver.Entry, error) {
	out := make([]driver.Entry, len(list))
	for i, info := range list {
		if s.namesOnly {
			out[i] = driver.Entry{Name: info.Name, Mode: info.Mode.Type()}
		} else {
			out[i], _ = entryOfInfo(info, nil)
		}
	}
	return out, nil
}
