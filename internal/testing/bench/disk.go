package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/ext4"
)

// benchFormat measures making an empty image beside mkfs.ext4, both synced: on the disk,
// where the sync is most of it, and in memory, where it is nothing.
func benchFormat(e *env) error {
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		e.logProgress("skipped: no mkfs.ext4 (e2fsprogs)")
		return nil
	}
	if err := e.formats(mkfs, e.dir, "on disk"); err != nil {
		return err
	}
	mem, err := os.MkdirTemp("/dev/shm", ".vole-bench-")
	if err != nil {
		e.logProgress("skipped: no memory to make images in: %v", err)
		return nil
	}
	defer os.RemoveAll(mem)
	return e.formats(mkfs, mem, "in memory")
}

func (e *env) formats(mkfs, dir, where string) error {
	image := filepath.Join(dir, "image")
	defer os.Remove(image)
	for _, s := range []struct {
		size vole.Size
		name string
		goal float64
	}{
		{128 * vole.MiB, "128 MiB", 20}, {vole.GiB, "1 GiB", 20}, {20 * vole.GiB, "20 GiB", 20},
		{vole.TiB, "1 TiB", 10}, {15 * vole.TiB, "15 TiB", 3},
	} {
		if e.quick && s.size > vole.GiB {
			break
		}
		var own, theirs int64
		v, f, err := e.measureInTurns(1,
			func(int) (time.Duration, error) {
				return timeOnNewFile(image, &own, func(file *os.File) error {
					if err := file.Truncate(int64(s.size)); err != nil {
						return err
					}
					_, err := ext4.Format(file, int64(s.size), ext4.FormatOptions{})
					return err
				})
			},
			func(int) (time.Duration, error) {
				return timeOnNewFile(image, &theirs, func(file *os.File) error {
					if err := file.Truncate(int64(s.size)); err != nil {
						return err
					}
					return exec.CommandContext(e.ctx, mkfs, "-q", "-F", image).Run()
				})
			})
		if err != nil {
			return err
		}
		r := e.addRate(fmt.Sprintf("ext4 image of %s %s, beside mkfs.ext4", s.name, where), "/s", perSecond(v), perSecond(f), s.goal)
		r.Note = fmt.Sprintf("storage: %s, mkfs.ext4 %s: 1/%.0f (goal 1/20)", vole.Size(own), vole.Size(theirs), float64(theirs)/float64(own))
	}
	return nil
}

func perSecond(d time.Duration) float64 { return 1 / d.Seconds() }

// timeOnNewFile times fn on a new file, and tells how much storage it takes then.
func timeOnNewFile(path string, storage *int64, fn func(*os.File) error) (time.Duration, error) {
	os.Remove(path)
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	start := time.Now()
	err = fn(f)
	d := time.Since(start)
	*storage = allocated(path)
	return d, err
}

// smallFiles writes the tree of the benchmarks: count files in directories of 100.
func smallFiles(count int, mkdir func(dir string) error, write func(name string, data []byte) error) error {
	data := bytes.Repeat([]byte("0123456789abcdef"), 128) // 2 KiB
	for i := range count {
		dir := fmt.Sprintf("dir%04d", i/100)
		if i%100 == 0 {
			if err := mkdir(dir); err != nil {
				return err
			}
		}
		if err := write(fmt.Sprintf("%s/file%02d", dir, i%100), data); err != nil {
			return err
		}
	}
	return nil
}

// timeOnNewDisk opens a fresh disk volume in batch mode, runs fn, and closes it, which makes
// all durable; all of it is timed but the making.
func (e *env) timeOnNewDisk(fn func(f *vole.FS) error) (time.Duration, error) {
	h, err := e.openFilledHome("small", few)
	if err != nil {
		return 0, err
	}
	v, err := h.Create(e.ctx, newName(), vole.Spec{Kind: vole.KindDisk, Capacity: 4 * vole.GiB})
	if err != nil {
		return 0, err
	}
	start := time.Now()
	f, err := v.OpenFS(e.ctx, vole.FSOptions{Batch: true})
	if err == nil {
		err = errors.Join(fn(f), f.Close())
	}
	d := time.Since(start)
	return d, errors.Join(err, v.Remove(e.ctx))
}

// readTree reads all files of a tree.
func readTree(root fs.FS) error {
	buf := make([]byte, chunk)
	return fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := root.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, buf)
		return err
	})
}

// walkTree looks at each entry of a tree.
func walkTree(root fs.FS) (n int, err error) {
	err = fs.WalkDir(root, ".", func(_ string, d fs.DirEntry, err error) error {
		if err == nil {
			n++
			_, err = d.Info()
		}
		return err
	})
	return n, err
}

// benchDiskSmall measures many small files into a disk volume and out of it, beside
// the kernel's ext4 on a loop mount, and beside debugfs.
func benchDiskSmall(e *env) error {
	count := e.sizeFor(10_000, 500)
	m, err := e.mountImage()
	if m == nil {
		return err
	}
	defer m.close()
	var vr, fr []time.Duration
	v, f, err := e.measureInTurns(1,
		func(int) (time.Duration, error) {
			return e.timeOnNewDisk(func(f *vole.FS) error {
				err := smallFiles(count, func(d string) error { return f.Mkdir(e.ctx, d, 0o755) },
					func(n string, data []byte) error { return f.WriteFile(e.ctx, n, data, 0o644) })
				return err
			})
		},
		func(int) (time.Duration, error) {
			return m.timeOnFreshMount(func(root string) error {
				return smallFiles(count, func(d string) error { return os.Mkdir(filepath.Join(root, d), 0o755) },
					func(n string, data []byte) error { return os.WriteFile(filepath.Join(root, n), data, 0o644) })
			})
		})
	if err != nil {
		return err
	}
	e.addTime(fmt.Sprintf("%d files of 2 KiB into a disk volume, beside a loop mount", count), v, f, 1)
	if err := e.benchDebugfs(count, v); err != nil {
		return err
	}
	err = e.onDiskAndMount(m, count, func(own, theirs fs.FS) error {
		for range e.rounds {
			a, aerr := timeCalls(1, func(int) error { return readTree(own) })
			b, berr := timeCalls(1, func(int) error { return readTree(theirs) })
			if err := errors.Join(aerr, berr); err != nil {
				return err
			}
			vr, fr = append(vr, a), append(fr, b)
		}
		return nil
	})
	if err == nil {
		e.addTime(fmt.Sprintf("%d files of 2 KiB out of a disk volume, beside a loop mount", count), median(vr), median(fr), 1)
	}
	return err
}

// onDiskAndMount fills a disk volume and a mount with the same files, and runs fn on both.
func (e *env) onDiskAndMount(m *loopMount, count int, fn func(own, theirs fs.FS) error) error {
	_, err := m.timeOnFreshMount(func(root string) error {
		return smallFiles(count, func(d string) error { return os.Mkdir(filepath.Join(root, d), 0o755) },
			func(n string, data []byte) error { return os.WriteFile(filepath.Join(root, n), data, 0o644) })
	})
	if err != nil {
		return err
	}
	_, err = e.timeOnNewDisk(func(f *vole.FS) error {
		err := smallFiles(count, func(d string) error { return f.Mkdir(e.ctx, d, 0o755) },
			func(n string, data []byte) error { return f.WriteFile(e.ctx, n, data, 0o644) })
		if err != nil {
			return err
		}
		return fn(f.Std(e.ctx), os.DirFS(m.dir))
	})
	return err
}

// benchDebugfs measures debugfs at the same work; vole is what it took us.
func (e *env) benchDebugfs(count int, own time.Duration) error {
	debugfs, err := exec.LookPath("debugfs")
	if err != nil {
		e.logProgress("skipped: no debugfs (e2fsprogs)")
		return nil
	}
	image, src := filepath.Join(e.dir, "debugfs.img"), filepath.Join(e.dir, "debugfs.src")
	defer os.Remove(image)
	defer os.Remove(src)
	var script strings.Builder
	err = smallFiles(count, func(d string) error { fmt.Fprintf(&script, "mkdir %s\n", d); return nil },
		func(n string, data []byte) error {
			fmt.Fprintf(&script, "cd /%s\nwrite %s %s\ncd /\n", path.Dir(n), src, path.Base(n))
			return os.WriteFile(src, data, 0o600)
		})
	if err != nil {
		return err
	}
	var storage int64
	d, err := timeOnNewFile(image, &storage, func(f *os.File) error {
		if _, err := ext4.Format(f, 4<<30, ext4.FormatOptions{}); err != nil {
			return err
		}
		if err := f.Truncate(4 << 30); err != nil {
			return err
		}
		c := exec.CommandContext(e.ctx, debugfs, "-w", "-f", "/dev/stdin", image)
		c.Stdin = strings.NewReader(script.String())
		if err := c.Run(); err != nil {
			return err
		}
		return f.Sync()
	})
	if err == nil {
		e.addRate(fmt.Sprintf("%d files of 2 KiB into a disk volume, beside debugfs", count), "files/s",
			float64(count)/own.Seconds(), float64(count)/d.Seconds(), 3)
	}
	return err
}

// benchDiskBig measures one large file into a disk volume and out of it.
func benchDiskBig(e *env) error {
	size := int64(e.sizeFor(1<<30, 16<<20))
	m, err := e.mountImage()
	if m == nil {
		return err
	}
	defer m.close()
	var vr, fr []time.Duration
	v, f, err := e.measureInTurns(1,
		func(int) (time.Duration, error) {
			var read time.Duration
			d, err := e.timeOnNewDisk(func(f *vole.FS) error {
				if _, err := f.WriteFrom(e.ctx, "big", newPattern(size), vole.WriteOptions{}); err != nil {
					return err
				}
				if err := f.Sync(e.ctx); err != nil {
					return err
				}
				var err error
				read, err = timeCalls(1, func(int) error { return readTree(f.Std(e.ctx)) })
				return err
			})
			vr = append(vr, read)
			return d - read, err
		},
		func(int) (time.Duration, error) {
			d, err := m.timeOnFreshMount(func(root string) error {
				out, err := os.Create(filepath.Join(root, "big"))
				if err != nil {
					return err
				}
				defer out.Close()
				_, err = io.CopyBuffer(struct{ io.Writer }{out}, newPattern(size), make([]byte, chunk))
				return err
			})
			if err != nil {
				return 0, err
			}
			read, err := timeCalls(1, func(int) error { return readTree(os.DirFS(m.dir)) })
			fr = append(fr, read)
			return d, err
		})
	if err != nil {
		return err
	}
	mb := float64(size) / 1e6
	e.addRate("one file of 1 GiB into a disk volume, beside a loop mount", "MB/s", mb/v.Seconds(), mb/f.Seconds(), 1/1.3)
	v, f = median(vr), median(fr)
	e.addRate("one file of 1 GiB out of a disk volume, beside a loop mount", "MB/s", mb/v.Seconds(), mb/f.Seconds(), 1)
	return nil
}

// benchDiskWalk measures a walk through a large tree.
func benchDiskWalk(e *env) error {
	count := e.sizeFor(100_000, 1000)
	m, err := e.mountImage()
	if m == nil {
		return err
	}
	defer m.close()
	return e.onDiskAndMount(m, count, func(own, theirs fs.FS) error {
		var v, f []time.Duration
		for range e.rounds {
			for _, side := range []struct {
				list *[]time.Duration
				root fs.FS
			}{{&v, own}, {&f, theirs}} {
				d, err := timeCalls(1, func(int) error {
					n, err := walkTree(side.root)
					if err == nil && n < count {
						err = fmt.Errorf("walked %d entries of %d", n, count)
					}
					return err
				})
				if err != nil {
					return err
				}
				*side.list = append(*side.list, d)
			}
		}
		e.addTime(fmt.Sprintf("walk of %d files in a disk volume, beside a loop mount", count), median(v), median(f), 1)
		return nil
	})
}
