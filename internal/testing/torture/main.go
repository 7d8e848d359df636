//go:build unix

// Command torture attacks a local home in ways that no single test can, and judges
// what is left of it by a record kept outside of it.
//
//	kill     processes that create, rename, update, remove, write and attach are killed
//	         with SIGKILL at random instants, alone and together; after each, the home
//	         is opened again and must hold what was acknowledged, whole, and no more
//	contend  many processes with many goroutines fight over the same names: one
//	         winner each time, no wait past its context, no dead-lock
//	held     processes are stopped in the middle of a removal or a write: no other name
//	         may wait
//
// Children are this program again. They tell through a pipe what they are about to do
// and what they have done, so what they said is known however they died.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// config holds the values of the command line's flags.
type config struct {
	home       string
	kills      int
	children   int // of the kill phase
	contend    time.Duration
	processes  int // of the contend phase
	goroutines int // of each of them
	seed       uint64

	child string // role of this process; "": the parent
	slot  int    // which of its siblings this child is
}

func main() {
	c := config{}
	dir := flag.String("dir", ".", "torture a home in a temporary directory beneath this one")
	flag.IntVar(&c.kills, "kills", 1000, "how many processes to kill; 0 leaves the phase out")
	flag.IntVar(&c.children, "children", 3, "processes that live at once while they are killed")
	flag.DurationVar(&c.contend, "contend", time.Minute, "how long to fight over names; 0 leaves the phase out")
	flag.IntVar(&c.processes, "processes", 16, "processes that fight")
	flag.IntVar(&c.goroutines, "goroutines", 8, "goroutines of each of them")
	flag.Uint64Var(&c.seed, "seed", rand.Uint64(), "seed of all random choices")
	flag.StringVar(&c.child, "child", "", "internal: the role of a child")
	flag.StringVar(&c.home, "home", "", "internal: the home of a child")
	flag.IntVar(&c.slot, "slot", 0, "internal: the number of a child")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if c.child != "" {
		err = runChild(ctx, c)
	} else {
		err = runPhases(ctx, c, *dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "torture:", err)
		os.Exit(1)
	}
}

func runChild(ctx context.Context, c config) error {
	switch c.child {
	case "lanes":
		return runLanesChild(ctx, c)
	case "contend":
		return runContendChild(ctx, c)
	case "remove":
		return runRemoveChild(ctx, c)
	case "write":
		return runWriteChild(ctx, c)
	}
	return fmt.Errorf("unknown child %q", c.child)
}

// runPhases is the parent: it runs the phases, each on a home of its own, and keeps the
// home of a failed phase for inspection.
func runPhases(ctx context.Context, c config, dir string) error {
	top, err := os.MkdirTemp(dir, ".vole-torture-")
	if err != nil {
		return err
	}
	if top, err = filepath.Abs(top); err != nil {
		return err
	}
	fmt.Printf("seed %d\n", c.seed)
	for _, phase := range []struct {
		name string
		skip bool
		run  func(context.Context, config) (string, error)
	}{
		{"kill", c.kills == 0, runKillPhase},
		{"contend", c.contend == 0, runContendPhase},
		{"held", c.contend == 0, runHeldPhase},
	} {
		if phase.skip {
			continue
		}
		c.home = filepath.Join(top, phase.name)
		start := time.Now()
		summary, err := phase.run(ctx, c)
		if ctx.Err() != nil {
			err = errors.Join(ctx.Err(), os.RemoveAll(top))
			return err
		}
		if err != nil {
			return fmt.Errorf("%s: %w\nthe home is kept in %s; run again with -seed %d", phase.name, err, c.home, c.seed)
		}
		fmt.Printf("%-8s ok   %s (%.1fs)\n", phase.name, summary, time.Since(start).Seconds())
	}
	return os.RemoveAll(top)
}
