package core

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/volehq/vole"
)

// files keeps the file systems of an organisation open that requests use one after the
// other. Those of disk volumes are closed at once after use, so that they can be attached.
type files struct {
	o    *org
	most int // that are open and not in use

	mu     sync.Mutex // guards what follows, and the fields of openFiles
	of     map[fileKey]*openFiles
	closed bool
}

type fileKey struct {
	volume   string // id
	readOnly bool
}

// openFiles is an open file system with its users.
type openFiles struct {
	fs    *vole.FS
	kind  vole.Kind
	name  string // of the volume when it was opened
	users int
	used  time.Time
	gone  bool // out of the table; closed with its last user
}

// idle is how long a file system is kept that nobody uses.
const idle = 10 * time.Second

func newFiles(o *org, most int) *files { return &files{o: o, most: most, of: map[fileKey]*openFiles{}} }

// cached returns the open file system of a volume, nil if there is none.
func (f *files) cached(key fileKey) *openFiles {
	f.mu.Lock()
	defer f.mu.Unlock()
	x := f.of[key]
	if x != nil {
		x.users++
	}
	return x
}

// get opens a volume's files, or joins those who have. done must be called with the error
// that came of using it.
func (f *files) get(ctx context.Context, v *vole.Volume, readOnly bool) (fsys *vole.FS, done func(error), err error) {
	info := v.Info()
	key := fileKey{info.ID, readOnly}
	x := f.cached(key)
	if x == nil {
		fsys, err := v.OpenFS(ctx, vole.FSOptions{ReadOnly: readOnly})
		if err != nil {
			return nil, nil, err
		}
		x = f.add(key, &openFiles{fs: fsys, kind: info.Kind, name: info.Name, users: 1})
	}
	return x.fs, func(err error) { f.put(key, x, err) }, nil
}

// add puts x into the table, unless another was quicker, which is used then.
func (f *files) add(key fileKey, x *openFiles) *openFiles {
	f.mu.Lock()
	have := f.of[key]
	if have != nil {
		have.users++
	} else if f.closed {
		x.gone = true
	} else {
		f.of[key] = x
	}
	many := len(f.of) > f.most
	f.mu.Unlock()
	if many {
		f.closeIf(func(_ fileKey, x *openFiles) bool { return x.users == 0 })
	}
	if have == nil {
		return x
	}
	f.close(x)
	return have
}

func (f *files) put(key fileKey, x *openFiles, err error) {
	f.mu.Lock()
	x.users--
	x.used = time.Now()
	stale := errors.Is(err, vole.ErrNotFound) || errors.Is(err, vole.ErrClosed)
	if !x.gone && (stale || x.users == 0 && x.kind == vole.KindDisk) {
		x.gone = true
		delete(f.of, key)
	}
	last := x.gone && x.users == 0
	f.mu.Unlock()
	if last {
		f.close(x)
	}
}

// close closes files that nobody uses. Nobody is told of an error, so it is logged.
func (f *files) close(x *openFiles) {
	err := x.fs.Close()
	if err != nil && !errors.Is(err, vole.ErrNotFound) && !errors.Is(err, vole.ErrClosed) {
		f.o.log.Warn("closing the files of a volume", "org", f.o.name, "volume", x.fs.Volume().ID(), "error", err)
	}
}

// forget closes what is open of a volume, now or when its users are done.
func (f *files) forget(volume string) {
	f.closeIf(func(k fileKey, _ *openFiles) bool { return k.volume == volume })
}

func (f *files) closeIdle(now time.Time) {
	f.closeIf(func(_ fileKey, x *openFiles) bool { return x.users == 0 && now.Sub(x.used) > idle })
}

func (f *files) closeAll() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.closeIf(func(fileKey, *openFiles) bool { return true })
}

func (f *files) closeIf(fits func(fileKey, *openFiles) bool) {
	var list []*openFiles
	f.mu.Lock()
	for k, x := range f.of {
		if !fits(k, x) {
			continue
		}
		x.gone = true
		delete(f.of, k)
		if x.users == 0 {
			list = append(list, x)
		}
	}
	f.mu.Unlock()
	for _, x := range list {
		f.close(x)
	}
}
