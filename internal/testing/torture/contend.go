//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/volehq/vole"
)

const (
	contendNames = 50
	patience     = 10 * time.Second      // of a context that should never end
	shortest     = 20 * time.Millisecond // of one that may
	slack        = 2 * time.Second       // by which an overloaded machine may be late

	// A duel is a name that all processes create in one slot of time and all remove
	// in a later one.
	duelSlot  = 200 * time.Millisecond
	duelDelay = 5 // slots between the two
)

func contendedVolume(i int) string { return fmt.Sprintf("c%02d", i) }
func duelVolume(k int64) string    { return fmt.Sprintf("duel-%d", k) }

// fighter is one goroutine of a child.
type fighter struct {
	store *vole.Store
	out   *journal
	rng   *rand.Rand
}

func runContendChild(ctx context.Context, c config) error {
	store, err := vole.Open(ctx, vole.Options{Home: c.home})
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	out := &journal{w: os.Stdout}
	end := monotonicNow() + int64(c.contend)
	var wg sync.WaitGroup
	for i := range c.goroutines {
		f := &fighter{store, out, rand.New(rand.NewPCG(c.seed, uint64(i)))}
		wg.Go(func() {
			if i == 0 {
				f.fightDuels(ctx, end)
				return
			}
			for monotonicNow() < end {
				f.runRandomOp(ctx)
			}
		})
	}
	wg.Wait()
	return store.Close()
}

// runAndRecord runs an operation within a limited time and records how it went. fn returns the
// id of the volume it acted on, once it knows.
func (f *fighter) runAndRecord(ctx context.Context, r record, fn func(ctx context.Context, r *record) error) {
	limit := patience
	if r.Op != "duel-create" && r.Op != "duel-remove" && f.rng.IntN(20) == 0 {
		limit = shortest
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r.Done, r.Limit, r.Start = true, int64(limit), monotonicNow()
	err := fn(ctx, &r)
	r.End = monotonicNow()
	if err != nil {
		r.Err = errorClass(err)
		if !strings.Contains(allowed[r.Op], r.Err) {
			r.Text = err.Error()
		}
	}
	f.out.write(r)
}

// fightDuels creates and removes the names of duels, in step with all other processes.
func (f *fighter) fightDuels(ctx context.Context, end int64) {
	for {
		slot := monotonicNow()/int64(duelSlot) + 1
		time.Sleep(time.Duration(slot*int64(duelSlot) - monotonicNow()))
		if monotonicNow() >= end {
			return
		}
		f.runAndRecord(ctx, record{Op: "duel-create", Vol: duelVolume(slot)}, func(ctx context.Context, r *record) error {
			v, err := f.store.Create(ctx, r.Vol, vole.Spec{})
			if err == nil {
				r.ID = v.ID()
			}
			return err
		})
		f.runAndRecord(ctx, record{Op: "duel-remove", Vol: duelVolume(slot - duelDelay)}, func(ctx context.Context, r *record) error {
			return f.store.Remove(ctx, r.Vol)
		})
	}
}

// runRandomOp runs one random operation on one of the names.
func (f *fighter) runRandomOp(ctx context.Context) {
	name := contendedVolume(f.rng.IntN(contendNames))
	switch n := f.rng.IntN(20); {
	case n < 7:
		f.runAndRecord(ctx, record{Op: "create", Vol: name}, func(ctx context.Context, r *record) error {
			v, err := f.store.Create(ctx, r.Vol, vole.Spec{})
			if err == nil {
				r.ID = v.ID()
			}
			return err
		})
	case n < 12:
		f.onVolume(ctx, record{Op: "remove", Vol: name}, func(ctx context.Context, _ *record, v *vole.Volume) error {
			return v.Remove(ctx)
		})
	case n < 14:
		to := contendedVolume(f.rng.IntN(contendNames))
		f.onVolume(ctx, record{Op: "rename", Vol: name, To: to}, func(ctx context.Context, r *record, v *vole.Volume) error {
			return v.Update(ctx, vole.Update{Name: r.To})
		})
	case n < 16:
		f.onVolume(ctx, record{Op: "attach", Vol: name}, f.attachVolume)
	case n < 18:
		f.onVolume(ctx, record{Op: "write", Vol: name, Path: filePath(0), Tag: monotonicNow()}, writeAndRead)
	default:
		f.onVolume(ctx, record{Op: "get", Vol: name}, func(context.Context, *record, *vole.Volume) error { return nil })
	}
}

// onVolume runs fn on the volume that has the name now.
func (f *fighter) onVolume(ctx context.Context, r record, fn func(context.Context, *record, *vole.Volume) error) {
	f.runAndRecord(ctx, r, func(ctx context.Context, r *record) error {
		v, err := f.store.Get(ctx, r.Vol)
		if err != nil {
			return err
		}
		r.ID = v.ID()
		return fn(ctx, r, v)
	})
}

// attachVolume attaches the volume for a moment, in which no process can remove it.
func (f *fighter) attachVolume(ctx context.Context, _ *record, v *vole.Volume) error {
	att, err := v.Attach(ctx, vole.AttachOptions{Holder: "fighter"})
	if err != nil {
		return err
	}
	time.Sleep(time.Duration(f.rng.IntN(int(5 * time.Millisecond))))
	if _, err := v.Refresh(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("lost while attached: %v", err) // as an "other" error
	}
	return att.Detach(context.WithoutCancel(ctx))
}

// writeAndRead writes a file whole and reads it, which may be another's by then.
func writeAndRead(ctx context.Context, r *record, v *vole.Volume) error {
	fs, err := v.FS(ctx)
	if err != nil {
		return err
	}
	defer fs.Close()
	// Bounded, so that this judges locks and not the disk.
	if err := fs.WriteFile(ctx, r.Path, fmt.Appendf(nil, "%d", r.Tag), 0); err != nil {
		return err
	}
	data, err := fs.ReadFile(ctx, r.Path)
	if err == nil && len(data) == 0 {
		err = errors.New("an atomically written file is empty")
	}
	return err
}

// runContendPhase lets the children fight and judges what they said.
func runContendPhase(ctx context.Context, c config) (string, error) {
	// The home exists before, so that all begin at once.
	if err := reopenHome(ctx, c.home, func(context.Context, *vole.Store) error { return nil }); err != nil {
		return "", err
	}
	var children []*child
	for slot := range c.processes {
		ch, err := spawnChild(c, "contend", slot, c.seed+uint64(slot)+1)
		if err != nil {
			return "", err
		}
		children = append(children, ch)
	}
	late := time.AfterFunc(c.contend+2*patience+time.Minute, func() {
		for _, ch := range children {
			_ = ch.cmd.Process.Signal(os.Signal(sigQuit)) // says where it hangs
		}
	})
	defer late.Stop()
	var records []record
	var errs []error
	for _, ch := range children {
		said, err := ch.wait()
		records = append(records, said...)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	j := newJudge(records)
	if err := j.judgeAll(); err != nil {
		return "", err
	}
	err := reopenHome(ctx, c.home, func(ctx context.Context, s *vole.Store) error {
		names := make([]string, contendNames)
		for i := range names {
			names[i] = contendedVolume(i)
		}
		return errors.Join(j.compareWithHome(ctx, s), verifyIdle(ctx, s, c.home), checkNamesUsable(ctx, s, names))
	})
	return j.describeCounts(), err
}
