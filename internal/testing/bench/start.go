package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// startsPerRound is how many processes one round starts: the kernel counts the time of a
// process in ticks of some milliseconds, of which a single start takes few.
const startsPerRound = 20

// benchStart measures the CPU time, of the process and of the kernel for it, that the
// binary takes until it has printed its version, beside an empty Go program.
func benchStart(e *env) error {
	binary, empty := filepath.Join(e.dir, "vole"), filepath.Join(e.dir, "empty")
	source := filepath.Join(e.dir, "empty.go")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		return err
	}
	for target, from := range map[string]string{binary: "./cmd/vole", empty: source} {
		build := exec.CommandContext(e.ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", target, from)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("go build %s, in the root of the project: %w: %s", from, err, out)
		}
	}
	// A home and profiles of their own: whose they are otherwise would count.
	env := append(os.Environ(), "VOLE_HOME="+filepath.Join(e.dir, "no-home"), "XDG_CONFIG_HOME="+filepath.Join(e.dir, "no-config"))
	start := func(name string, args ...string) func(int) (time.Duration, error) {
		return func(n int) (cpu time.Duration, err error) {
			for range n {
				c := exec.CommandContext(e.ctx, name, args...)
				c.Env = env
				if err := c.Run(); err != nil {
					return 0, err
				}
				cpu += c.ProcessState.UserTime() + c.ProcessState.SystemTime()
			}
			return cpu, nil
		}
	}
	own, floor, err := e.measureInTurns(startsPerRound, start(binary, "version"), start(empty))
	if err == nil {
		e.addTime("CPU time of vole version, beside an empty Go program", own, floor, 2.5)
	}
	return err
}
