//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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

// runRemoveChild removes the volume, saying when it begins and when it is done.
func runRemoveChild(ctx context.Context, c config) error {
	store, err := vole.Open(ctx, vole.Options{Home: c.home})
	if err != nil {
		return err
	}
	out := &journal{w: os.Stdout}
	out.write(record{Op: "remove", Vol: heldName})
	err = store.Remove(ctx, heldName)
	out.write(record{Op: "remove", Vol: heldName, Done: true, Err: errorClass(err)})
	return errors.Join(err, store.Close())
}

// runHeldPhase stops processes in the middle of removing a volume and of writing to one,
// and uses all other names while they are stopped: their locks must delay none of these calls.
func runHeldPhase(ctx context.Context, c config) (string, error) {
	var worst time.Duration
	removals, writes := 0, 0
	for i := range 15 {
		err := reopenHome(ctx, c.home, func(ctx context.Context, s *vole.Store) error {
			caught, fn := &writes, stopWriter
			if i%5 == 0 {
				caught, fn = &removals, stopRemover
			}
			took, in, err := fn(ctx, c, s)
			worst = max(worst, took)
			if in {
				*caught++
			}
			return err
		})
		if err == nil {
			err = reopenHome(ctx, c.home, func(ctx context.Context, s *vole.Store) error { return verifyIdle(ctx, s, c.home) })
		}
		if err != nil {
			return "", err
		}
	}
	if removals == 0 {
		return "", errors.New("caught no process in the middle of a removal")
	}
	return fmt.Sprintf("%d processes stood still in a removal, %d with a volume locked; slowest create and remove of another name %v",
		removals, writes, worst.Round(time.Millisecond)), nil
}

func fillHeldVolumes(ctx context.Context, s *vole.Store) error {
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

// runWriteChild writes files of the volume until it is killed.
func runWriteChild(ctx context.Context, c config) error {
	store, err := vole.Open(ctx, vole.Options{Home: c.home})
	if err != nil {
		return err
	}
	v, err := store.Get(ctx, heldName)
	if err != nil {
		return err
	}
	f, err := v.FS(ctx)
	if err != nil {
		return err
	}
	out := &journal{w: os.Stdout}
	errs := make(chan error)
	for g := range 8 {
		go func() {
			for i := 0; ; i++ {
				if err := f.WriteFile(ctx, fmt.Sprint(g), []byte("text"), 0); err != nil {
					errs <- err
					return
				}
				if i == 10 && g == 0 {
					out.write(record{Op: "write", Vol: heldName})
				}
			}
		}()
	}
	return <-errs // they only end by an error
}

// waitTimeout is how long a call waits on a volume whose lock a process holds that
// stands still.
const waitTimeout = 200 * time.Millisecond

// stopWriter stops a process (SIGSTOP) that writes to a volume. Other writers of that volume may
// have to wait, but no longer than their contexts; all other volumes stay usable. It reports
// whether the process held a lock when it was stopped.
func stopWriter(ctx context.Context, c config, s *vole.Store) (worst time.Duration, in bool, err error) {
	v, err := s.Create(ctx, heldName, vole.Spec{})
	if err != nil {
		return 0, false, err
	}
	ch, err := begin(c, "write")
	if err != nil {
		return 0, false, err
	}
	defer func() {
		_, kerr := ch.kill()
		err = errors.Join(err, kerr, v.Remove(ctx))
	}()
	// At a random moment of some writes.
	time.Sleep(time.Duration(rand.IntN(int(20 * time.Millisecond))))
	if err := ch.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return 0, false, err
	}
	f, err := v.FS(ctx)
	if err != nil {
		return 0, false, err
	}
	start := time.Now()
	short, cancel := context.WithTimeout(ctx, waitTimeout)
	err = f.WriteFile(short, "mine", []byte("text"), 0)
	cancel()
	in = errors.Is(err, context.DeadlineExceeded)
	if took := time.Since(start); err != nil && !in || took > waitTimeout+slack {
		return 0, in, fmt.Errorf("a write to a volume that another process has locked took %v: %w", took, err)
	}
	worst, err = churnOtherNames(ctx, s, nil)
	return worst, in, errors.Join(err, ch.cmd.Process.Signal(syscall.SIGCONT), f.Close())
}

// begin starts a child and waits for its first word.
func begin(c config, role string) (*child, error) {
	ch, err := spawnChild(c, role, 0, c.seed)
	if err != nil {
		return nil, err
	}
	for start := time.Now(); !ch.hasWritten(); time.Sleep(time.Millisecond) {
		if time.Since(start) > verifyTimeout {
			_, kerr := ch.kill()
			return nil, errors.Join(errors.New("the child does not begin"), kerr)
		}
	}
	return ch, nil
}

// churnOtherNames creates and removes volumes of the first name and of unused names, and
// returns the time of the slowest call.
func churnOtherNames(ctx context.Context, s *vole.Store, first []string) (worst time.Duration, err error) {
	names := first
	for i := range contendNames {
		names = append(names, contendedVolume(i))
	}
	for _, name := range names {
		start := time.Now()
		ctx, cancel := context.WithTimeout(ctx, heldLimit)
		v, err := s.Create(ctx, name, vole.Spec{})
		if err == nil {
			err = v.Remove(ctx)
		}
		cancel()
		if err != nil {
			return worst, fmt.Errorf("%s waits for what is no concern of its: %w", name, err)
		}
		worst = max(worst, time.Since(start))
	}
	return worst, nil
}

// stopRemover runs a child that removes the volume, stops it, and creates and removes other
// volumes. It returns the time of the slowest call, and whether the child was stopped in the
// middle of the removal.
func stopRemover(ctx context.Context, c config, s *vole.Store) (worst time.Duration, in bool, err error) {
	if err := fillHeldVolumes(ctx, s); err != nil {
		return 0, false, err
	}
	ch, err := begin(c, "remove")
	if err != nil {
		return 0, false, err
	}
	defer func() {
		_ = ch.cmd.Process.Signal(syscall.SIGCONT)
		_, werr := ch.wait()
		err = errors.Join(err, werr)
	}()
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
	// Its name is free again, though the old volume is not yet gone.
	worst, err = churnOtherNames(ctx, s, []string{heldName})
	return worst, in, err
}
