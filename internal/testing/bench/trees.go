package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/transfer"
)

// treeCapacity is the size of the disk volumes, and images, that hold the tree.
const treeCapacity = 512 * vole.MiB

// sourceTree is what these benchmarks copy: Go's own sources, some ten thousand files, as a
// directory and as a tar stream.
type sourceTree struct{ dir, tar string }

func (e *env) sources() (sourceTree, error) {
	t := sourceTree{filepath.Join(e.dir, "tree"), filepath.Join(e.dir, "tree.tar")}
	if _, err := os.Stat(t.tar); err == nil {
		return t, nil
	}
	out, err := exec.CommandContext(e.ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return t, err
	}
	src := filepath.Join(strings.TrimSpace(string(out)), "src")
	if e.quick {
		src = filepath.Join(src, "go")
	}
	if err := os.CopyFS(t.dir, os.DirFS(src)); err != nil {
		return t, err
	}
	return t, e.command("tar", "-cf", t.tar, "-C", t.dir, ".")
}

// command runs a program of others; what it says is in the error.
func (e *env) command(name string, args ...string) error {
	if out, err := exec.CommandContext(e.ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}

// hasPrograms reports whether the programs of others are there.
func (e *env) hasPrograms(names ...string) bool {
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			e.logProgress("skipped: no %s", n)
			return false
		}
	}
	return true
}

// newTree makes a volume that fill fills, durably, as vole create --from does; after is told
// of it before it is removed.
func (e *env) newTree(disk bool, fill func(to transfer.Tree) error, after func(*vole.Volume) error) (time.Duration, error) {
	h, err := e.openFilledHome("small", few)
	if err != nil {
		return 0, err
	}
	spec := vole.Spec{}
	if disk {
		spec = vole.Spec{Kind: vole.KindDisk, Capacity: treeCapacity}
	}
	start := time.Now()
	v, err := h.Build(e.ctx, newName(), spec, func(v *vole.Volume) error {
		f, err := v.OpenFS(e.ctx, vole.FSOptions{Batch: true})
		if err != nil {
			return err
		}
		return errors.Join(fill(transfer.Volume(f)), f.Close())
	})
	d := time.Since(start)
	if err != nil {
		return 0, err
	}
	if after != nil {
		err = after(v)
	}
	return d, errors.Join(err, v.Remove(e.ctx))
}

var treeOptions = transfer.Options{Owner: os.Geteuid() == 0, Root: true}

// fromDir and fromTar copy the tree.
func (e *env) fromDir(t sourceTree) func(to transfer.Tree) error {
	return func(to transfer.Tree) error {
		h, err := transfer.OpenHost(t.dir)
		if err != nil {
			return err
		}
		defer h.Close()
		_, err = transfer.Copy(e.ctx, to, ".", h, ".", treeOptions)
		return err
	}
}

func (e *env) fromTar(t sourceTree) func(to transfer.Tree) error {
	return func(to transfer.Tree) error {
		in, err := os.Open(t.tar)
		if err != nil {
			return err
		}
		defer in.Close()
		_, err = transfer.FromTar(e.ctx, to, ".", in, treeOptions)
		return err
	}
}

// benchTreeOut measures a tree as a tar stream: of a disk volume beside tar on a loop mount,
// and of a dir volume beside tar on the same files. Both write to a pipe.
func benchTreeOut(e *env) error {
	t, err := e.sources()
	if err != nil || !e.hasPrograms("tar", "cat") {
		return err
	}
	m, err := e.mountImage()
	if err != nil {
		return err
	}
	if m != nil {
		defer m.close()
		if _, err := m.timeOnFreshMount(func(root string) error { return e.command("tar", "-xf", t.tar, "-C", root) }); err != nil {
			return err
		}
		if err := e.treeOut(t, true, m.dir, "a disk volume to a tar stream, beside tar on a loop mount"); err != nil {
			return err
		}
	}
	return e.treeOut(t, false, t.dir, "a dir volume to a tar stream, beside tar")
}

func (e *env) treeOut(t sourceTree, disk bool, theirs, what string) error {
	_, err := e.newTree(disk, e.fromDir(t), func(v *vole.Volume) error {
		own, their, err := e.measureInTurns(1,
			func(int) (time.Duration, error) {
				return e.timePiped(func(w *os.File) error {
					f, err := v.OpenFS(e.ctx, vole.FSOptions{ReadOnly: true})
					if err != nil {
						return err
					}
					_, err = transfer.ToTar(e.ctx, w, f, ".", ".", transfer.Options{Owner: true})
					return errors.Join(err, f.Close())
				})
			},
			func(int) (time.Duration, error) {
				return e.timePiped(func(w *os.File) error {
					c := exec.CommandContext(e.ctx, "tar", "-cf", "-", "-C", theirs, ".")
					c.Stdout = w
					return c.Run()
				})
			})
		if err == nil {
			e.addTime("Go's sources: "+what, own, their, 1)
		}
		return err
	})
	return err
}

// timePiped times fn, which writes to a pipe that another process reads. tar looks whether it
// writes to /dev/null, and reads nothing then.
func (e *env) timePiped(fn func(w *os.File) error) (time.Duration, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	c := exec.CommandContext(e.ctx, "cat")
	c.Stdin = r
	err = c.Start()
	r.Close()
	if err != nil {
		w.Close()
		return 0, err
	}
	start := time.Now()
	err = fn(w)
	w.Close()
	err = errors.Join(err, c.Wait())
	return time.Since(start), err
}

// benchTreeIn measures volumes made of a directory and of a tar stream beside what others
// make of the same, synced.
func benchTreeIn(e *env) error {
	t, err := e.sources()
	if err != nil || !e.hasPrograms("tar", "mke2fs") {
		return err
	}
	image, plain := filepath.Join(e.dir, "tree.img"), filepath.Join(e.dir, "tree.plain")
	defer os.Remove(image)
	defer os.RemoveAll(plain)
	rows := []struct {
		what   string
		disk   bool
		fill   func(to transfer.Tree) error
		theirs func(int) (time.Duration, error)
	}{
		{"a directory to a disk volume, beside mke2fs -d", true, e.fromDir(t), func(int) (time.Duration, error) {
			os.Remove(image)
			return timeCalls(1, func(int) error {
				size := fmt.Sprintf("%dk", treeCapacity/vole.KiB)
				return errors.Join(e.command("mke2fs", "-q", "-F", "-t", "ext4", "-d", t.dir, image, size), syncFile(image))
			})
		}},
		{"a tar stream to a dir volume, beside tar -x", false, e.fromTar(t), func(int) (time.Duration, error) {
			err := errors.Join(os.RemoveAll(plain), os.Mkdir(plain, 0o700))
			if err != nil {
				return 0, err
			}
			return timeCalls(1, func(int) error {
				return errors.Join(e.command("tar", "-xf", t.tar, "-C", plain), e.command("sync", "-f", plain))
			})
		}},
		{"a directory to a dir volume, beside cp -a", false, e.fromDir(t), func(int) (time.Duration, error) {
			if err := os.RemoveAll(plain); err != nil {
				return 0, err
			}
			return timeCalls(1, func(int) error {
				return errors.Join(e.command("cp", "-a", t.dir, plain), e.command("sync", "-f", plain))
			})
		}},
	}
	m, err := e.mountImage()
	if err != nil {
		return err
	}
	if m != nil {
		defer m.close()
		rows = append(rows, rows[0])
		last := &rows[len(rows)-1]
		last.what, last.fill = "a tar stream to a disk volume, beside tar -x on a loop mount", e.fromTar(t)
		last.theirs = func(int) (time.Duration, error) {
			return m.timeOnFreshMount(func(root string) error { return e.command("tar", "-xf", t.tar, "-C", root) })
		}
	}
	for _, r := range rows {
		v, f, err := e.measureInTurns(1, func(int) (time.Duration, error) { return e.newTree(r.disk, r.fill, nil) }, r.theirs)
		if err != nil {
			return err
		}
		e.addTime("Go's sources: "+r.what, v, f, 1)
	}
	return nil
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
