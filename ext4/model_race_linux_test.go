//go:build linux

package ext4_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/testing/ext4oracle"
	"github.com/volehq/vole/internal/testing/ext4workload"
)

// Goroutines that each have a directory of their own do what they do alone.
func TestManyAtOnce(t *testing.T) {
	for _, batch := range []bool{false, true} {
		t.Run(fmt.Sprintf("batch=%v", batch), func(t *testing.T) {
			fs, d := newRegressFS(t, 64*mega, batch)
			const workers = 6
			models := make([]*ext4workload.Model, workers)
			var all sync.WaitGroup
			for k := range workers {
				failOnErrors(t, fs.Mkdir(fmt.Sprint(k), 0o755))
				models[k] = ext4workload.NewModel(4096)
				all.Go(func() { runAlone(t, fs, models[k], k) })
			}
			all.Wait()
			tree := readTreeOf(t, fs)
			for k, m := range models {
				expectSameTree(t, fmt.Sprint("of worker ", k), m.Tree(), subtree(tree, fmt.Sprint(k)), workerDiff)
			}
			closeAndCheck(t, fs, d)
		})
	}
}

var workerDiff = func() ext4oracle.DiffOptions {
	o := ext4oracle.SameContent
	o.DirNlink = true // the model has lost+found
	return o
}()

// runAlone does operations beneath one directory.
func runAlone(t *testing.T, fs *ext4.FS, m *ext4workload.Model, k int) {
	w := ext4workload.NewFS(fs)
	gen := ext4workload.NewGen(uint64(k), m, ext4workload.Options{Bytes: 30_000, Files: 40, Checked: true})
	for range 250 {
		o := gen.Next()
		o2 := *o
		o2.Path = pathInDir(k, o.Path)
		if o.Kind == ext4workload.Link || o.Kind == ext4workload.Rename || o.Kind == ext4workload.Copy {
			o2.Path2 = pathInDir(k, o.Path2)
		}
		if o.Path == "." || o2.Path2 == fmt.Sprint(k) {
			continue
		}
		err := w.Apply(context.Background(), &o2)
		if ext4workload.Expected(o, err, false) {
			continue
		}
		if want := m.Apply(o); !sameKind(want, err) {
			t.Errorf("worker %d: %s: %v, and the model says %v", k, &o2, err, want)
			return
		}
	}
	if err := w.CloseAll(); err != nil {
		t.Error(err)
	}
}

func pathInDir(k int, path string) string {
	if path == "." {
		return fmt.Sprint(k)
	}
	return fmt.Sprintf("%d/%s", k, path)
}

// subtree returns what is beneath a directory.
func subtree(t ext4oracle.Tree, dir string) ext4oracle.Tree {
	sub := ext4oracle.Tree{}
	for p, n := range t {
		if p == dir {
			sub["."] = n
		} else if len(p) > len(dir) && p[:len(dir)+1] == dir+"/" {
			sub[p[len(dir)+1:]] = n
		}
	}
	return sub
}

// Everything is done to a few names at once: nothing breaks, and readers never see a
// part of a file.
func TestSameNamesAtOnce(t *testing.T) {
	for _, batch := range []bool{false, true} {
		t.Run(fmt.Sprintf("batch=%v", batch), func(t *testing.T) { testSameNames(t, batch) })
	}
}

func testSameNames(t *testing.T, batch bool) {
	fs, d := newRegressFS(t, 64*mega, batch)
	ctx, cancel := context.WithTimeout(context.Background(), 1500*time.Millisecond)
	defer cancel()
	var all sync.WaitGroup
	var done atomic.Int64
	for k := range 6 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(k), 5))
			for ctx.Err() == nil {
				if err := doRacingOp(fs, r); err != nil && !isExpectedRaceError(err) {
					t.Error(err)
					cancel()
				}
				done.Add(1)
			}
		})
	}
	all.Wait()
	t.Logf("%d operations", done.Load())
	closeAndCheck(t, fs, d)
}

// isExpectedRaceError reports whether an error is one that the others can cause.
func isExpectedRaceError(err error) bool {
	for _, e := range []error{syscall.ENOENT, syscall.EEXIST, syscall.ENOTEMPTY, syscall.EISDIR, syscall.ENOTDIR, syscall.EINVAL, syscall.ENODATA, syscall.ENOSPC} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// wholeFileContent is a content that tells whether it is complete.
func wholeFileContent(r *rand.Rand) []byte {
	v, n := r.Uint64(), 1+r.IntN(40_000)
	if r.IntN(30) == 0 {
		n = 200_000
	}
	b := make([]byte, 0, 8*n)
	b = binary.LittleEndian.AppendUint64(b, uint64(8*n))
	for len(b) < 8*n {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

func doRacingOp(fs *ext4.FS, r *rand.Rand) error {
	ctx := context.Background()
	dirs := []string{"", "d/", "d/e/", "f/"}
	name := func() string { return dirs[r.IntN(4)] + string(rune('p'+r.IntN(4))) }
	dir := func() string { return []string{"d", "d/e", "f", "f/d"}[r.IntN(4)] }
	switch r.IntN(12) {
	case 0, 1:
		_, err := fs.WriteFile(ctx, name(), bytes.NewReader(wholeFileContent(r)), ext4.WriteOptions{})
		return err
	case 2:
		return fs.Rename(name(), name(), r.IntN(2) == 0)
	case 3:
		return fs.Rename(dir(), dir(), r.IntN(2) == 0)
	case 4:
		return fs.Remove(name())
	case 5:
		if r.IntN(4) > 0 {
			return nil
		}
		return fs.RemoveAll(ctx, dir())
	case 6:
		return fs.Copy(ctx, dir(), dir(), false)
	case 7:
		return fs.Copy(ctx, name(), name(), false)
	case 8:
		return fs.Link(name(), name())
	case 9:
		return listDir(fs, dir())
	}
	return readWholeFile(fs, name())
}

func listDir(fs *ext4.FS, dir string) error {
	d, err := fs.OpenDir(dir, false)
	if err != nil {
		return err
	}
	defer d.Close()
	seen := map[string]bool{}
	for {
		part, err := d.Read(3)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range part {
			if seen[e.Name] {
				return fmt.Errorf("%s is twice in %s", e.Name, dir)
			}
			seen[e.Name] = true
		}
	}
}

// readWholeFile reads a file while it may be replaced.
func readWholeFile(fs *ext4.FS, path string) error {
	f, err := fs.OpenFile(path, ext4.OpenFlags{})
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	b := make([]byte, info.Size)
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		return err
	}
	if len(b) < 8 || binary.LittleEndian.Uint64(b) != uint64(len(b)) {
		return &iofs.PathError{Op: "read", Path: path, Err: fmt.Errorf("%d bytes that are not a whole file", len(b))}
	}
	for k := 16; k < len(b); k += 8 {
		if !bytes.Equal(b[8:16], b[k:k+8]) {
			return &iofs.PathError{Op: "read", Path: path, Err: fmt.Errorf("two contents in one file, from %d on", k)}
		}
	}
	return nil
}
