//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/volehq/vole"
)

// killer is the parent of the kill phase.
type killer struct {
	c       config
	rng     *rand.Rand
	running []*child            // by slot
	lanes   map[string]*history // by name
	killed  int
	acked   int // operations
	idle    int // rounds in which no child was alive
}

// runKillPhase kills children until there were c.kills of them. Mostly one is killed while
// its siblings go on working; now and then all are.
func runKillPhase(ctx context.Context, c config) (string, error) {
	k := &killer{
		c: c, rng: rand.New(rand.NewPCG(c.seed, 0)),
		running: make([]*child, c.children), lanes: map[string]*history{},
	}
	for slot := range c.children {
		for i := range lanesPerChild {
			k.lanes[laneName(slot, i)] = newHistory()
		}
	}
	defer func() {
		for _, ch := range k.running {
			if ch != nil {
				_, _ = ch.kill()
			}
		}
	}()
	for k.killed < c.kills {
		if err := k.runKillRound(ctx); err != nil {
			return "", fmt.Errorf("after %d kills and %d acknowledged operations: %w", k.killed, k.acked, err)
		}
	}
	return fmt.Sprintf("%d processes killed, %d of them while others worked; %d operations acknowledged, none lost",
		k.killed, k.killed-k.idle*c.children, k.acked), nil
}

func (k *killer) runKillRound(ctx context.Context) error {
	for slot, ch := range k.running {
		if ch == nil {
			var err error
			if k.running[slot], err = spawnChild(k.c, "lanes", slot, k.rng.Uint64()); err != nil {
				return err
			}
		}
	}
	if err := k.pauseAtRandom(ctx); err != nil {
		return err
	}
	if k.rng.IntN(4) == 0 || k.killed+k.c.children >= k.c.kills {
		return k.killAllChildren(ctx)
	}
	slot := k.rng.IntN(k.c.children)
	if err := k.killChild(slot); err != nil {
		return err
	}
	return reopenHome(ctx, k.c.home, func(ctx context.Context, s *vole.Store) error {
		return errors.Join(k.verifySlot(ctx, s, slot), checkHome(ctx, s))
	})
}

// pauseAtRandom lets the children work for a while. One time in eight it does not wait until
// they have begun, so that kills hit opening and recovery as well.
func (k *killer) pauseAtRandom(ctx context.Context) error {
	if k.rng.IntN(8) != 0 {
		for start := time.Now(); ; time.Sleep(time.Millisecond) {
			if !slices.ContainsFunc(k.running, func(ch *child) bool { return !ch.hasWritten() }) {
				break
			}
			if time.Since(start) > verifyTimeout {
				return errors.New("a child does not begin: it waits for what a dead one left")
			}
		}
	}
	select {
	case <-time.After(time.Duration(k.rng.IntN(int(150 * time.Millisecond)))):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// killChild kills the child of a slot and keeps its records.
func (k *killer) killChild(slot int) error {
	records, err := k.running[slot].kill()
	k.running[slot] = nil
	if err != nil {
		return err
	}
	k.killed++
	for _, r := range records {
		if r.Done {
			k.acked++
		}
		if strings.HasPrefix(r.Op, "shared-") {
			if r.Err == "other" || r.Err == "timeout" {
				return fmt.Errorf("%s %s: %s", r.Op, r.Vol, r.Text)
			}
			continue
		}
		h := k.lanes[r.Lane]
		if h == nil {
			return fmt.Errorf("a child said %s", r)
		}
		if err := h.addRecord(r); err != nil {
			return fmt.Errorf("lane %s, %s: %w", r.Lane, r.Vol, err)
		}
	}
	return nil
}

// killAllChildren kills all children at once and judges the home that they leave.
func (k *killer) killAllChildren(ctx context.Context) error {
	for _, ch := range k.running {
		if err := ch.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
	}
	for slot := range k.running {
		if err := k.killChild(slot); err != nil {
			return err
		}
	}
	k.idle++
	return reopenHome(ctx, k.c.home, func(ctx context.Context, s *vole.Store) error {
		var errs []error
		for slot := range k.running {
			errs = append(errs, k.verifySlot(ctx, s, slot))
		}
		errs = append(errs, k.verifyShared(ctx, s), verifyIdle(ctx, s, k.c.home), checkNamesUsable(ctx, s, k.pickNames()))
		return errors.Join(errs...)
	})
}

// pickNames returns names that lanes use. Trying all of them creates volumes, which takes
// long, so mostly it returns a few.
func (k *killer) pickNames() []string {
	var names []string
	for _, lane := range slices.Sorted(maps.Keys(k.lanes)) {
		for i := range namesPerLane {
			names = append(names, laneVolume(lane, i))
		}
	}
	for i := range sharedNames {
		names = append(names, sharedVolume(i))
	}
	if k.killed < k.c.kills && k.idle%10 != 0 {
		k.rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		names = names[:8]
	}
	return names
}

// verifySlot judges the volumes of a slot whose child is dead.
func (k *killer) verifySlot(ctx context.Context, s *vole.Store, slot int) error {
	for i := range lanesPerChild {
		lane := laneName(slot, i)
		h := k.lanes[lane]
		have, err := readLane(ctx, s, lane+"-")
		if err != nil {
			return fmt.Errorf("lane %s, pending %v: %w", lane, h.pending, err)
		}
		if err := h.settlePending(have); err != nil {
			return fmt.Errorf("lane %s: %w", lane, err)
		}
		for name, v := range have {
			if h.removed[v.id] {
				return fmt.Errorf("lane %s: %s (%s) was removed and is back", lane, name, v.id)
			}
		}
	}
	return nil
}

// verifyShared reads the volumes that all lanes share: whichever lane won, they must be whole.
func (k *killer) verifyShared(ctx context.Context, s *vole.Store) error {
	have, err := readLane(ctx, s, "shared-")
	if err != nil {
		return err
	}
	for name, v := range have {
		for p := range v.files {
			if p != "file0" {
				return fmt.Errorf("%s holds %s, which nobody wrote", name, p)
			}
		}
	}
	return nil
}
