package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/volehq/vole"
)

// chunk is the size of one read or write of a stream, for Vole and the floor alike.
const chunk = 256 << 10

// files is a volume for measuring file operations, and a plain directory beside it.
type files struct {
	*vole.FS
	vol   *vole.Volume
	host  string // where the volume's files lie
	plain string // the floor's directory
}

func (e *env) openFiles() (*files, error) {
	h, err := e.openFilledHome("small", few)
	if err != nil {
		return nil, err
	}
	f := &files{}
	if f.vol, err = h.Create(e.ctx, newName(), vole.Spec{}); err != nil {
		return nil, err
	}
	if f.host, err = hostPath(e, f.vol); err != nil {
		return nil, err
	}
	if f.FS, err = f.vol.FS(e.ctx); err != nil {
		return nil, err
	}
	f.plain, err = os.MkdirTemp(e.dir, "plain-")
	return f, err
}

// close removes all, so that the next measurement has the disk for itself.
func (f *files) close(e *env) error {
	return errors.Join(f.Close(), f.vol.Remove(e.ctx), os.RemoveAll(f.plain))
}

// withNewVolume runs fn on a fresh volume.
func (e *env) withNewVolume(fn func(*files) error) error {
	f, err := e.openFiles()
	if err != nil {
		return err
	}
	return errors.Join(fn(f), f.close(e))
}

// repeatCall makes a function for turns of one that makes a single call.
func repeatCall(fn func() error) func(n int) (time.Duration, error) {
	return func(n int) (time.Duration, error) { return timeCalls(n, func(int) error { return fn() }) }
}

func benchRead(e *env) error {
	return e.withNewVolume(func(f *files) error {
		data := bytes.Repeat([]byte("vole"), 1024)
		if err := f.WriteFile(e.ctx, "file", data, 0); err != nil {
			return err
		}
		path := filepath.Join(f.host, "file")
		v, fl, err := e.measureInTurns(e.sizeFor(5000, 200),
			repeatCall(func() error { got, err := f.ReadFile(e.ctx, "file"); return compareBytes(got, data, err) }),
			repeatCall(func() error { got, err := os.ReadFile(path); return compareBytes(got, data, err) }))
		if err == nil {
			e.addTime("read of a 4 KiB file", v, fl, 1.5)
		}
		return err
	})
}

func compareBytes(got, want []byte, err error) error {
	if err == nil && len(got) != len(want) {
		return fmt.Errorf("read %d bytes, want %d", len(got), len(want))
	}
	return err
}

func benchWrite(e *env) error {
	return e.withNewVolume(func(f *files) error {
		data := bytes.Repeat([]byte("vole"), 1024)
		path := filepath.Join(f.plain, "file")
		v, fl, err := e.measureInTurns(e.sizeFor(200, 20),
			repeatCall(func() error { return f.WriteFile(e.ctx, "file", data, 0o644) }),
			repeatCall(func() error {
				return writeAtomic(path, func(t *os.File) error { _, err := t.Write(data); return err })
			}))
		if err == nil {
			e.addTime("atomic, durable write of 4 KiB", v, fl, 1.3)
		}
		return err
	})
}

// pattern yields n bytes of a fixed pattern at the cost of a memory copy.
type pattern struct {
	buf  []byte
	left int64
}

func newPattern(n int64) *pattern {
	return &pattern{buf: bytes.Repeat([]byte("0123456789abcdef"), chunk/16), left: n}
}

func (p *pattern) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(int64(len(b)), p.left)], p.buf)
	p.left -= int64(n)
	return n, nil
}

// sink counts the bytes written to it. It has no ReadFrom, so the copier's buffer is used.
type sink struct{ n int64 }

func (s *sink) Write(p []byte) (int, error) {
	s.n += int64(len(p))
	return len(p), nil
}

// streamSize is that of the large file; one measurement of it is a round.
func (e *env) streamSize() int64 { return int64(e.sizeFor(1<<30, 32<<20)) }

// addStream adds a row of throughput from times of one pass over size bytes.
func (e *env) addStream(what string, size int64, vole, floor time.Duration, least float64) *Row {
	mb := func(d time.Duration) float64 { return float64(size) / 1e6 / d.Seconds() }
	return e.addRate(what, "MB/s", mb(vole), mb(floor), least)
}

// plainCopy copies r to w with one buffer of the size that Vole uses.
func plainCopy(w io.Writer, r io.Reader) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, chunk))
	return err
}

func benchStreamWrite(e *env) error {
	return e.withNewVolume(func(f *files) error {
		size := e.streamSize()
		path := filepath.Join(f.plain, "stream")
		v, fl, err := e.measureInTurns(1,
			repeatCall(func() error {
				_, err := f.WriteFrom(e.ctx, "stream", newPattern(size), vole.WriteOptions{})
				return err
			}),
			repeatCall(func() error {
				return writeAtomic(path, func(t *os.File) error { return plainCopy(t, newPattern(size)) })
			}))
		if err == nil {
			e.addStream(fmt.Sprintf("stream write of %d MiB", size>>20), size, v, fl, 0.9)
		}
		return err
	})
}

func benchStreamRead(e *env) error {
	return e.withNewVolume(func(f *files) error {
		size := e.streamSize()
		if _, err := f.WriteFrom(e.ctx, "stream", newPattern(size), vole.WriteOptions{}); err != nil {
			return err
		}
		v, fl, err := e.measureInTurns(1, repeatCall(func() error { return f.readStream(e, size) }), repeatCall(func() error {
			r, err := os.Open(filepath.Join(f.host, "stream"))
			if err != nil {
				return err
			}
			defer r.Close()
			return plainCopy(&sink{}, r)
		}))
		if err == nil {
			e.addStream(fmt.Sprintf("stream read of %d MiB", size>>20), size, v, fl, 0.9)
		}
		return err
	})
}

func (f *files) readStream(e *env, size int64) error {
	r, err := f.NewReader(e.ctx, "stream", 0, -1)
	if err != nil {
		return err
	}
	defer r.Close()
	var s sink
	if _, err := io.Copy(&s, r); err != nil {
		return err
	}
	if s.n != size {
		return fmt.Errorf("read %d bytes of %d", s.n, size)
	}
	return nil
}

// benchEntries lists a large directory; the floor lists the very same one.
func benchEntries(e *env) error {
	return e.withNewVolume(func(f *files) error {
		total := e.sizeFor(100_000, 2000)
		if err := f.fillDir(e, "many", total); err != nil {
			return err
		}
		path := filepath.Join(f.host, "many")
		enough := func(n int, err error) error {
			if err == nil && n != total {
				return fmt.Errorf("listed %d entries of %d", n, total)
			}
			return err
		}
		v, fl, err := e.measureInTurns(1,
			repeatCall(func() error { list, err := f.ReadDir(e.ctx, "many"); return enough(len(list), err) }),
			repeatCall(func() error {
				list, err := os.ReadDir(path)
				for _, d := range list {
					if _, err := d.Info(); err != nil {
						return err
					}
				}
				return enough(len(list), err)
			}))
		if err == nil {
			e.addTime(fmt.Sprintf("list of %d entries, sorted", total), v, fl, 1.3)
		}
		return err
	})
}

// fillDir makes a directory of n small files past the FS, as a sandbox would.
func (f *files) fillDir(e *env, name string, n int) error {
	att, err := f.vol.Attach(e.ctx, vole.AttachOptions{Holder: "bench", HostPath: true})
	if err != nil {
		return err
	}
	dir := filepath.Join(att.Path(), name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for i := range n {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%06d", i)), nil, 0o644); err != nil {
			return err
		}
	}
	return att.Detach(e.ctx)
}

// measureCopy measures a copy within the volume beside io.Copy and fsync of the same file.
func (e *env) measureCopy(f *files) (v, fl time.Duration, err error) {
	src, dst := filepath.Join(f.host, "from"), filepath.Join(f.plain, "to")
	return e.measureInTurns(1,
		func(int) (time.Duration, error) {
			if err := f.RemoveAll(e.ctx, "to"); err != nil {
				return 0, err
			}
			return timeCalls(1, func(int) error { return f.Copy(e.ctx, "from", "to", vole.CopyOptions{}) })
		},
		func(int) (time.Duration, error) {
			if err := os.RemoveAll(dst); err != nil {
				return 0, err
			}
			return timeCalls(1, func(int) error { return ioCopy(src, dst) })
		})
}

func ioCopy(src, dst string) error {
	r, err := os.Open(src)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.Create(dst)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Sync(), w.Close(), syncDir(filepath.Dir(dst)))
}

func benchCopy(e *env) error {
	return e.withNewVolume(func(f *files) error {
		size := e.streamSize()
		if _, err := f.WriteFrom(e.ctx, "from", newPattern(size), vole.WriteOptions{}); err != nil {
			return err
		}
		v, fl, err := e.measureCopy(f)
		if err == nil {
			e.addStream(fmt.Sprintf("copy of %d MiB within a volume", size>>20), size, v, fl, 0.9)
		}
		return err
	})
}

func benchCopySparse(e *env) error {
	return e.withNewVolume(func(f *files) error {
		size := e.streamSize()
		h, err := f.Open(e.ctx, "from", vole.OpenOptions{Create: true})
		if err != nil {
			return err
		}
		// 64 pieces of data with holes between them.
		data := make([]byte, 64<<10)
		_, _ = newPattern(int64(len(data))).Read(data)
		for i := range int64(64) {
			if _, err := h.WriteAt(e.ctx, data[:min(int64(len(data)), size/128)], i*(size/64)); err != nil {
				return err
			}
		}
		if err := errors.Join(h.Truncate(e.ctx, size), h.Close()); err != nil {
			return err
		}
		v, fl, err := e.measureCopy(f)
		if err != nil {
			return err
		}
		e.addTime(fmt.Sprintf("copy of a sparse file of %d MiB", size>>20), v, fl, 1)
		from, err1 := f.Stat(e.ctx, "from")
		to, err2 := f.Stat(e.ctx, "to")
		e.rows[len(e.rows)-1].Note = fmt.Sprintf("allocated: %v, copy %v, io.Copy %v", vole.Size(from.Allocated).Human(),
			vole.Size(to.Allocated).Human(), vole.Size(allocated(filepath.Join(f.plain, "to"))).Human())
		return errors.Join(err1, err2)
	})
}
