package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// loopMount is the kernel's ext4 on an image, beside which ours is measured.
type loopMount struct {
	e          *env
	image, dir string
	mounted    bool
}

// mountImage prepares the floor; nil without an error: it cannot be had here.
func (e *env) mountImage() (*loopMount, error) {
	if os.Geteuid() != 0 {
		e.logProgress("skipped: loop mounts need root")
		return nil, nil
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		e.logProgress("skipped: no mkfs.ext4 (e2fsprogs)")
		return nil, nil
	}
	m := &loopMount{e: e, image: filepath.Join(e.dir, "loop.img"), dir: filepath.Join(e.dir, "loop")}
	return m, os.MkdirAll(m.dir, 0o700)
}

// timeOnFreshMount runs fn on a fresh mount, and syncs; both are timed. The mount stays for others to read.
func (m *loopMount) timeOnFreshMount(fn func(root string) error) (time.Duration, error) {
	if err := m.mountFresh(); err != nil {
		return 0, err
	}
	start := time.Now()
	err := fn(m.dir)
	if err == nil {
		err = m.sync()
	}
	return time.Since(start), err
}

func (m *loopMount) mountFresh() error {
	if err := m.unmount(); err != nil {
		return err
	}
	os.Remove(m.image)
	f, err := os.Create(m.image)
	if err != nil {
		return err
	}
	err = errors.Join(f.Truncate(4<<30), f.Close())
	if err != nil {
		return err
	}
	for _, c := range [][]string{{"mkfs.ext4", "-q", "-F", m.image}, {"mount", "-o", "loop", m.image, m.dir}} {
		if out, err := exec.CommandContext(m.e.ctx, c[0], c[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", c[0], err, out)
		}
	}
	m.mounted = true
	return nil
}

// sync makes the mount durable, and the image beneath it.
func (m *loopMount) sync() error {
	d, err := os.Open(m.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}

func (m *loopMount) unmount() error {
	if !m.mounted {
		return nil
	}
	m.mounted = false
	return unix.Unmount(m.dir, 0)
}

func (m *loopMount) close() {
	if err := m.unmount(); err != nil {
		m.e.logProgress("unmount %s: %v", m.dir, err)
	}
	os.Remove(m.image)
}
