package main

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/volehq/vole"
)

// serial makes names that were never used in this run.
var serial atomic.Int64

func newName() string { return fmt.Sprintf("n%d", serial.Add(1)) }

// few is how many volumes a small home holds.
const few = 100

// openSmallHome returns the small home, filled, and a floor beside it.
func (e *env) openSmallHome() (*home, *floorHome, error) {
	h, err := e.openFilledHome("small", few)
	if err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp(e.dir, "floor-")
	if err != nil {
		return nil, nil, err
	}
	f, err := newFloorHome(dir, h)
	return h, f, err
}

func (h *home) createN(e *env, n int) (names []string, d time.Duration, err error) {
	for range n {
		names = append(names, newName())
	}
	d, err = timeCalls(n, func(i int) error { _, err := h.Create(e.ctx, names[i], vole.Spec{}); return err })
	return names, d, err
}

func (h *home) removeN(e *env, names []string) (time.Duration, error) {
	return timeCalls(len(names), func(i int) error { return h.Remove(e.ctx, names[i]) })
}

// create1 makes n volumes one at a time and removes them outside of the time.
func (h *home) create1(e *env) func(n int) (time.Duration, error) {
	return func(n int) (time.Duration, error) {
		names, d, err := h.createN(e, n)
		if err != nil {
			return 0, err
		}
		_, err = h.removeN(e, names)
		return d, err
	}
}

// remove1 removes n volumes one at a time that it made outside of the time.
func (h *home) remove1(e *env) func(n int) (time.Duration, error) {
	return func(n int) (time.Duration, error) {
		names, _, err := h.createN(e, n)
		if err != nil {
			return 0, err
		}
		return h.removeN(e, names)
	}
}

// atOnce makes n volumes, some at a time, and removes them outside of the time. create
// returns what remove takes.
func atOnce(some int, create func() (string, error), remove func(string) error) func(n int) (time.Duration, error) {
	return func(n int) (time.Duration, error) {
		made := make([][]string, some)
		start := time.Now()
		err := parallel(some, func(i int) error {
			for range n / some {
				s, err := create()
				if err != nil {
					return err
				}
				made[i] = append(made[i], s)
			}
			return nil
		})
		d := time.Since(start)
		return d, errors.Join(err, parallel(some, func(i int) error {
			for _, s := range made[i] {
				if err := remove(s); err != nil {
					return err
				}
			}
			return nil
		}))
	}
}

func (h *home) create8(e *env) func(n int) (time.Duration, error) {
	return atOnce(8, func() (string, error) {
		name := newName()
		_, err := h.Create(e.ctx, name, vole.Spec{})
		return name, err
	}, func(name string) error { return h.Remove(e.ctx, name) })
}

func benchCreate(e *env) error {
	h, floor, err := e.openSmallHome()
	if err != nil {
		return err
	}
	defer floor.close()
	floorCreate := func(some int) func(n int) (time.Duration, error) {
		return atOnce(some, func() (string, error) { return floor.create(newName()) }, floor.delete)
	}
	v, f, err := e.measureInTurns(e.sizeFor(40, 8), h.create1(e), floorCreate(1))
	if err != nil {
		return err
	}
	e.addTime("create, one at a time", v, f, 1.6)
	v8, v1, err := e.measureInTurns(e.sizeFor(160, 16), h.create8(e), h.create1(e))
	if err != nil {
		return err
	}
	r := e.addRate("create, 8 at once, beside one at a time", "/s", 1/v8.Seconds(), 1/v1.Seconds(), 3)
	r.Note = "both Vole"
	v8, f8, err := e.measureInTurns(e.sizeFor(160, 16), h.create8(e), floorCreate(8))
	if err != nil {
		return err
	}
	e.addRate("create, 8 at once", "/s", 1/v8.Seconds(), 1/f8.Seconds(), 1)
	return nil
}

func benchRemove(e *env) error {
	h, floor, err := e.openSmallHome()
	if err != nil {
		return err
	}
	defer floor.close()
	floorRemove := func(n int) (time.Duration, error) {
		ids := make([]string, n)
		for i := range ids {
			if ids[i], err = floor.create(newName()); err != nil {
				return 0, err
			}
		}
		return timeCalls(n, func(i int) error { return floor.delete(ids[i]) })
	}
	v, f, err := e.measureInTurns(e.sizeFor(40, 8), h.remove1(e), floorRemove)
	if err != nil {
		return err
	}
	e.addTime("remove", v, f, 1.6)
	return nil
}

// getN gets n volumes by name, through all that fill made.
func (h *home) getN(e *env) func(n int) (time.Duration, error) {
	return func(n int) (time.Duration, error) {
		names := spreadNames(h.n, n)
		return timeCalls(n, func(i int) error { _, err := h.Get(e.ctx, names[i]); return err })
	}
}

// spreadNames returns n names of volumes, evenly from among total.
func spreadNames(total, n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = volName(i * 7919 % total) // a prime, so that neighbours are far apart
	}
	return names
}

func benchGet(e *env) error {
	h, err := e.openFilledHome("small", few)
	if err != nil {
		return err
	}
	return e.getOf("get by name", h)
}

// getOf measures Get beside a bare prepared SELECT of the same columns.
func (e *env) getOf(what string, h *home) error {
	db, err := openCatalog(h)
	if err != nil {
		return err
	}
	defer db.Close()
	stmt, err := db.Prepare(`SELECT ` + columns + ` FROM volumes WHERE name = ? AND state <> 'removing'`)
	if err != nil {
		return err
	}
	defer stmt.Close()
	floorGet := func(n int) (time.Duration, error) {
		names := spreadNames(h.n, n)
		return timeCalls(n, func(i int) error {
			var r row
			return r.scan(stmt.QueryRow(names[i]))
		})
	}
	v, f, err := e.measureInTurns(e.sizeFor(2000, 100), h.getN(e), floorGet)
	if err == nil {
		e.addTime(what, v, f, 2)
	}
	return err
}

func benchList(e *env) error {
	for _, total := range []int{e.sizeFor(1000, 200), e.sizeFor(10_000, 1000), e.sizeFor(100_000, 5000)} {
		h, err := e.openFilledHome("big", total)
		if err != nil {
			return err
		}
		if err := e.listOf(h, total); err != nil {
			return err
		}
	}
	return nil
}

func (e *env) listOf(h *home, total int) error {
	db, err := openCatalog(h)
	if err != nil {
		return err
	}
	defer db.Close()
	enough := func(n int) error {
		if n != total {
			return fmt.Errorf("listed %d volumes of %d", n, total)
		}
		return nil
	}
	list := func(int) error {
		n := 0
		for _, err := range h.Volumes(e.ctx, vole.Filter{}) {
			if err != nil {
				return err
			}
			n++
		}
		return enough(n)
	}
	scan := func(int) error {
		n, err := scanAll(db)
		return errors.Join(err, enough(n))
	}
	v, f, err := e.measureInTurns(max(1, 20_000/total),
		func(n int) (time.Duration, error) { return timeCalls(n, list) },
		func(n int) (time.Duration, error) { return timeCalls(n, scan) })
	if err != nil {
		return err
	}
	e.addTime(fmt.Sprintf("list of %d volumes", total), v, f, 1.5)
	vm, err := residentGrowth(func() error { return list(0) })
	if err != nil {
		return err
	}
	fm, err := residentGrowth(func() error { return scan(0) })
	if err != nil {
		return err
	}
	e.rows[len(e.rows)-1].Note = fmt.Sprintf("memory grew by %.1f MiB at most (floor %.1f)", vm, fm)
	return nil
}

// residentGrowth returns by how many MiB the resident memory of the process grew at most
// while fn ran; 0 where the system does not tell.
func residentGrowth(fn func() error) (mib float64, err error) {
	debug.FreeOSMemory()
	before := residentMemory()
	done := make(chan struct{})
	peak := make(chan int64)
	go func() {
		top := before
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				top = max(top, residentMemory())
			case <-done:
				peak <- max(top, residentMemory())
				return
			}
		}
	}()
	err = fn()
	close(done)
	return float64(<-peak-before) / (1 << 20), err
}

// residentMemory is the resident memory of this process in bytes, proc_pid_statm(5).
func residentMemory() int64 {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(data))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// benchScale shows that the cost of a call does not grow with the number of volumes:
// its "floor" is Vole itself with few volumes in the home.
func benchScale(e *env) error {
	total := e.sizeFor(100_000, 5000)
	// Not the home of the other measurements: large files come and go beside that, and
	// where its directories lie on the disk shows in the times.
	small, err := e.openFilledHome("few", few)
	if err != nil {
		return err
	}
	big, err := e.openFilledHome("big", total)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		what string
		n    int
		op   func(*home, *env) func(int) (time.Duration, error)
	}{
		{"create", e.sizeFor(40, 8), (*home).create1},
		{"get", e.sizeFor(2000, 100), (*home).getN},
		{"remove", e.sizeFor(40, 8), (*home).remove1},
	} {
		b, s, err := e.measureInTurns(c.n, c.op(big, e), c.op(small, e))
		if err != nil {
			return err
		}
		e.addTime(fmt.Sprintf("%s among %d, beside %d volumes", c.what, total, few), b, s, 1.5)
		e.rows[len(e.rows)-1].Note = "both Vole"
	}
	return e.getOf(fmt.Sprintf("get by name among %d", total), big)
}
