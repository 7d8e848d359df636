package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/volehq/vole"
)

// env holds the state that all measurements share.
type env struct {
	ctx    context.Context
	dir    string // everything is beneath it
	quick  bool
	rounds int
	rows   []Row
	start  time.Time

	homes map[string]*home

	servers *cloud         // nil: not started
	spaces  int            // namespaces that were made
	entries int            // of the large volume
	ends    []func() error // called by close, last first
}

// home is an open local home.
type home struct {
	*vole.Store
	path string
	n    int // volumes that fill made
}

func newEnv(ctx context.Context, dir string, quick bool, rounds int) (*env, error) {
	dir, err := os.MkdirTemp(dir, ".vole-bench-")
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if quick {
		rounds = min(rounds, 3)
	}
	return &env{ctx: ctx, dir: dir, quick: quick, rounds: rounds, start: time.Now(), homes: map[string]*home{}}, nil
}

// atEnd has close call fn.
func (e *env) atEnd(fn func() error) { e.ends = append(e.ends, fn) }

func (e *env) close() error {
	var err error
	for _, fn := range slices.Backward(e.ends) {
		err = errors.Join(err, fn())
	}
	for _, h := range e.homes {
		err = errors.Join(err, h.Close())
	}
	return errors.Join(err, os.RemoveAll(e.dir))
}

// logProgress tells on standard error what goes on.
func (e *env) logProgress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%6.1fs  %s\n", time.Since(e.start).Seconds(), fmt.Sprintf(format, args...))
}

// sizeFor returns n, or a small part of it in a quick run.
func (e *env) sizeFor(n, quick int) int {
	if e.quick {
		return quick
	}
	return n
}

// openHome opens the home of that name, once.
func (e *env) openHome(name string) (*home, error) {
	if h := e.homes[name]; h != nil {
		return h, nil
	}
	path := filepath.Join(e.dir, name)
	s, err := vole.Open(e.ctx, vole.Options{Home: path})
	if err != nil {
		return nil, err
	}
	e.homes[name] = &home{Store: s, path: path}
	return e.homes[name], nil
}

// openFilledHome opens the home of that name and makes volumes v0, v1, ... until there are n.
func (e *env) openFilledHome(name string, n int) (*home, error) {
	h, err := e.openHome(name)
	if err != nil || h.n >= n {
		return h, err
	}
	start, from := time.Now(), h.n
	var next atomic.Int64
	next.Store(int64(h.n))
	err = parallel(16, func(int) error {
		for {
			i := next.Add(1) - 1
			if i >= int64(n) {
				return nil
			}
			if _, err := h.Create(e.ctx, volName(int(i)), vole.Spec{}); err != nil {
				return err
			}
		}
	})
	if err != nil {
		return nil, err
	}
	h.n = n
	e.logProgress("made %d volumes, 16 at once: %.0f/s", n-from, float64(n-from)/time.Since(start).Seconds())
	return h, nil
}

func volName(i int) string { return fmt.Sprintf("v%d", i) }

// parallel runs fn on n goroutines.
func parallel(n int, fn func(i int) error) error {
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() { errs[i] = fn(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// timeCalls measures n calls of fn, together.
func timeCalls(n int, fn func(i int) error) (time.Duration, error) {
	start := time.Now()
	for i := range n {
		if err := fn(i); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}

// measureInTurns runs vole and floor in turns and returns the median time of one call of each.
// Each function makes n calls and says how long they took, so that it can prepare
// and tidy up outside of the time.
func (e *env) measureInTurns(n int, vole, floor func(n int) (time.Duration, error)) (v, f time.Duration, err error) {
	var vs, fs []time.Duration
	one := func(list *[]time.Duration, fn func(n int) (time.Duration, error)) error {
		if err := e.ctx.Err(); err != nil {
			return err
		}
		runtime.GC()
		d, err := fn(n)
		*list = append(*list, d/time.Duration(n))
		return err
	}
	// One round more than is counted, to warm up.
	for r := range e.rounds + 1 {
		if r%2 == 0 {
			err = errors.Join(one(&vs, vole), one(&fs, floor))
		} else {
			err = errors.Join(one(&fs, floor), one(&vs, vole))
		}
		if err != nil {
			return 0, 0, err
		}
	}
	return median(vs[1:]), median(fs[1:]), nil
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

// addTime adds a row of times of one call; the ratio is not to be above most (0: no goal).
func (e *env) addTime(what string, vole, floor time.Duration, most float64) {
	unit, div := "ms", float64(time.Millisecond)
	if max(vole, floor) < time.Millisecond {
		unit, div = "µs", float64(time.Microsecond)
	}
	r := Row{What: what, Vole: float64(vole) / div, Floor: float64(floor) / div, Unit: unit, OK: true}
	r.Ratio = r.Vole / r.Floor
	if most > 0 {
		r.Goal, r.OK = fmt.Sprintf("≤%.3g", most), r.Ratio <= most
	}
	e.rows = append(e.rows, r)
}

// addRate adds a row of rates; the goal is a ratio of at least least (0: no goal).
func (e *env) addRate(what, unit string, vole, floor, least float64) *Row {
	r := Row{What: what, Vole: vole, Floor: floor, Unit: unit, Ratio: vole / floor, OK: true}
	if least > 0 {
		r.Goal, r.OK = fmt.Sprintf("≥%.3g", least), r.Ratio >= least
	}
	e.rows = append(e.rows, r)
	return &e.rows[len(e.rows)-1]
}
