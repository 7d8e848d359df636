//go:build !linux

package main

import "time"

// loopMount is the kernel's ext4 on an image, which only Linux has.
type loopMount struct{ dir string }

func (e *env) mountImage() (*loopMount, error) {
	e.logProgress("skipped: loop mounts need Linux")
	return nil, nil
}

func (m *loopMount) timeOnFreshMount(func(root string) error) (time.Duration, error) { return 0, nil }

func (m *loopMount) close() {}
