package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/volehq/vole"
)

const (
	heldName  = "held"
	heldFiles = 30_000 // so that the removal takes long enough to be stopped in it
	// heldLimit bounds each call on another name, which takes some milliseconds.
	heldLimit = 3 * time.Second
)

// removeChild removes the volume, saying when it begins and when it is done.
func removeChild(ctx context.Context, c config) error {
	store, err := vole.Open(ctx, vole.Options{Home: c.home})
	if err != nil {
		return err
	}
	out := &journal{w: os.Stdout}
	out.write(record{Op: "remove", Vol: heldName})
	err = store.Remove(ctx, heldName)
	out.write(record{Op: "remove", Vol: heldName, Done: true, Err: classOf(err)})
	return errors.Join(err, store.Close())
}

// heldPhase stops a process in the middle of removing a volume and uses all other
// names meanwhile: what it holds must delay none of them.
func heldPhase(ctx context.Context, c config) (string, error) {
	var worst time.Duration
	caught := 0
	for range 5 {
		err := reopen(ctx, c.home, func(ctx context.Context, s *vole.Store) error {
			if err := fillHeld(ctx, s); err != nil {
				return err
			}
			took, in, err := stopped(ctx, c, s)
			worst = max(worst, took)
			if in {
				caught++
			}
			return err
		})
		if err == nil {
			err = reopen(ctx, c.home, func(ctx context.Context, s *vole.Store) error { return verifyIdle(ctx, s, c.home) })
		}
		if err != nil {
			return "", err
		}
	}
	if caught == 0 {
		return "", errors.New("never caught a process in the middle of a removal")
	}
	return fmt.Sprintf("%d times a process stood still in a removal; slowest call on another name %v", caught, worst.Round(time.Millisecond)), nil
}

func fillHeld(ctx context.Context, s *vole.Store) error {
	v, err := s.Create(ctx, heldName, vole.Spec{})
	if err != nil {
		return err
	}
	att, err := v.Attach(ctx, vole.AttachOptions{HostPath: true})
	if err != nil {
		return err
	}
	for i := range heldFiles {
		if err := os.WriteFile(filepath.Join(att.Path(), fmt.Sprint(i)), nil, 0o600); err != nil {
			return err
		}
	}
	return att.Detach(ctx)
}

// stopped runs a child that removes the volume, stops it, and makes and removes other
// volumes. It returns the time of the slowest call, and whether the child was caught
// in the middle.
func stopped(ctx context.Context, c config, s *vole.Store) (worst time.Duration, in bool, err error) {
	ch, err := spawn(c, "remove", 0, c.seed)
	if err != nil {
		return 0, false, err
	}
	defer func() {
		_ = ch.cmd.Process.Signal(syscall.SIGCONT)
		_, werr := ch.wait()
		err = errors.Join(err, werr)
	}()
	for start := time.Now(); !ch.saidAny(); time.Sleep(time.Millisecond) {
		if time.Since(start) > verifyTimeout {
			return 0, false, errors.New("the child does not begin")
		}
	}
	// Until its name is free it has not committed to the removal; after that it only
	// deletes files, outside of any transaction, until the last.
	for {
		if _, err := s.Get(ctx, heldName); errors.Is(err, vole.ErrNotFound) {
			break
		} else if err != nil {
			return 0, false, err
		}
	}
	time.Sleep(5 * time.Millisecond)
	if err := ch.cmd.Process.Signal(syscall.SIGSTOP); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return 0, false, err
	}
	ch.mu.Lock()
	in = len(ch.records) == 1
	ch.mu.Unlock()
	for i := range contendNames {
		name := contendVol(i)
		if i == 0 {
			name = heldName // free again, though its old volume is not yet gone
		}
		start := time.Now()
		ctx, cancel := context.WithTimeout(ctx, heldLimit)
		v, err := s.Create(ctx, name, vole.Spec{})
		if err == nil {
			err = v.Remove(ctx)
		}
		cancel()
		if err != nil {
			return worst, in, fmt.Errorf("%s waits for a removal that is no concern of its: %w", name, err)
		}
		worst = max(worst, time.Since(start))
	}
	return worst, in, nil
}
