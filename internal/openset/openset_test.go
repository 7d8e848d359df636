package openset

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/volehq/vole/driver"
)

var errFinish, errFree = errors.New("finish failed"), errors.New("free failed")

// thing is an open thing that checks what is done to it.
type thing struct {
	t    *testing.T
	life Life

	inside          atomic.Int64 // operations between Enter and Leave
	finished, freed atomic.Int64
}

func (x *thing) Finish(context.Context) error {
	if x.finished.Add(1) > 1 {
		x.t.Error("finished twice")
	}
	if x.freed.Load() != 0 {
		x.t.Error("freed before it was finished")
	}
	return errFinish
}

func (x *thing) Free(context.Context) error {
	if x.freed.Add(1) > 1 {
		x.t.Error("freed twice")
	}
	if x.finished.Load() != 1 {
		x.t.Error("freed and not finished")
	}
	if n := x.inside.Load(); n != 0 {
		x.t.Errorf("freed while %d operations were under way", n)
	}
	return errFree
}

// operate runs one operation.
func (x *thing) operate(ctx context.Context) error {
	if err := x.life.Enter(ctx); err != nil {
		return err
	}
	x.inside.Add(1)
	for range rand.N(3) {
		time.Sleep(time.Microsecond)
	}
	if x.freed.Load() != 0 {
		x.t.Error("freed under an operation")
	}
	x.inside.Add(-1)
	x.life.Leave()
	return nil
}

func begin(t *testing.T, set *Set) (*thing, error) {
	x := &thing{t: t}
	return x, x.life.Begin(set, x)
}

// Whatever many goroutines do to the things of a set, each is finished once and freed once,
// under no operation, and the set is empty when its Close returns.
func TestLives(t *testing.T) {
	for round := range 300 {
		set := &Set{}
		var things sync.Map // of *thing, all that were begun
		var workers sync.WaitGroup
		for range 4 {
			workers.Go(func() {
				var mine []*thing
				for range 30 {
					x, err := begin(t, set)
					if err != nil {
						if !errors.Is(err, driver.ErrClosed) {
							t.Error(err)
						}
						break
					}
					things.Store(x, nil)
					mine = append(mine, x)
					other := mine[rand.N(len(mine))]
					var ops sync.WaitGroup
					for range rand.N(4) {
						ops.Go(func() {
							if err := other.operate(t.Context()); err != nil && !errors.Is(err, driver.ErrClosed) {
								t.Error(err)
							}
						})
					}
					if rand.N(3) > 0 {
						ops.Go(func() {
							if err := other.life.Close(t.Context()); err != nil && !errors.Is(err, errFinish) {
								t.Error(err)
							}
						})
					}
					ops.Wait()
				}
			})
		}
		time.Sleep(rand.N(500 * time.Microsecond))
		err := set.Close(t.Context())
		if n := set.Len(); n != 0 {
			t.Errorf("round %d: %d things are left in a closed set", round, n)
		}
		if err != nil && !errors.Is(err, errFinish) {
			t.Errorf("round %d: %v", round, err)
		}
		workers.Wait()
		things.Range(func(k, _ any) bool {
			x := k.(*thing)
			if x.finished.Load() != 1 || x.freed.Load() != 1 {
				t.Errorf("round %d: finished %d times, freed %d times", round, x.finished.Load(), x.freed.Load())
			}
			if err := x.operate(t.Context()); !errors.Is(err, driver.ErrClosed) {
				t.Errorf("round %d: an operation after all: %v", round, err)
			}
			return true
		})
		if t.Failed() {
			return
		}
	}
}

// Close returns what Finish did, and what Free did if no operation was under way.
func TestErrorsOfClose(t *testing.T) {
	set := &Set{}
	x, err := begin(t, set)
	if err != nil {
		t.Fatal(err)
	}
	if err := x.life.Close(t.Context()); !errors.Is(err, errFinish) || !errors.Is(err, errFree) {
		t.Errorf("alone: %v", err)
	}
	if err := x.life.Close(t.Context()); err != nil {
		t.Errorf("again: %v", err)
	}
	if x, err = begin(t, set); err != nil {
		t.Fatal(err)
	}
	if err := x.life.Enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := x.life.Close(t.Context()); !errors.Is(err, errFinish) || errors.Is(err, errFree) || x.freed.Load() != 0 {
		t.Errorf("under an operation: %v, freed %d times", err, x.freed.Load())
	}
	if set.Len() != 1 {
		t.Error("what is not freed has left the set")
	}
	x.life.Leave()
	if x.freed.Load() != 1 || set.Len() != 0 {
		t.Errorf("after the operation: freed %d times, %d in the set", x.freed.Load(), set.Len())
	}
}

// An operation does not begin when its context has ended, and a set does not wait longer than
// its own.
func TestContexts(t *testing.T) {
	set := &Set{}
	x, err := begin(t, set)
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := x.operate(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("an operation whose context has ended: %v", err)
	}
	if err := x.life.Enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := set.Close(ended); !errors.Is(err, errFinish) || set.Len() != 1 {
		t.Errorf("%v, %d in the set", err, set.Len())
	}
	waited := make(chan error)
	go func() { waited <- set.Close(t.Context()) }()
	x.life.Leave()
	if err := <-waited; err != nil || set.Len() != 0 {
		t.Errorf("waiting: %v, %d in the set", err, set.Len())
	}
	if _, err := begin(t, set); !errors.Is(err, driver.ErrClosed) {
		t.Errorf("begun in a closed set: %v", err)
	}
}

// boundless is a member whose Free would take as long as its context lets it.
type boundless struct{ freed chan error }

func (b *boundless) Finish(context.Context) error { return nil }

func (b *boundless) Free(ctx context.Context) error {
	<-ctx.Done()
	b.freed <- ctx.Err()
	return nil
}

// The context of Close bounds Free, too: many members take no longer than one.
func TestCloseBoundsFree(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var set Set
	b := &boundless{make(chan error, 3)}
	for range 3 {
		if err := new(Life).Begin(&set, b); err != nil {
			t.Fatal(err)
		}
	}
	if err := set.Close(ctx); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := <-b.freed; err != context.Canceled {
			t.Errorf("freed with %v", err)
		}
	}
}
