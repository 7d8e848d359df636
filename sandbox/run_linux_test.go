package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/volehq/vole"
)

func TestRun(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e *env, runtime string) {
		c := shellConfig(t, "echo hello; echo error >&2; echo kept > /data/x; exit 7", "data:/data")
		c.Runtime = runtime
		o, err := e.run(c, "")
		if err != nil || o.ExitCode != 7 || o.out != "hello\n" || o.err != "error\n" {
			t.Fatalf("%+v, %v", o, err)
		}
		c = shellConfig(t, "cat /data/x -; id -u", "data:/data:ro")
		c.Runtime = runtime
		if o, err = e.run(c, "from stdin\n"); err != nil || o.out != "kept\nfrom stdin\n0\n" {
			t.Fatalf("%+v, %v", o, err)
		}
		e.checkClean()
	})
}

func TestExitCodes(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e *env, runtime string) {
		for script, want := range map[string]int{
			"exit 0": 0, "exit 255": 255, "kill -TERM $$; sleep 9": 128 + 15, "kill -KILL $$; sleep 9": 128 + 9,
			"trap 'exit 3' TERM; kill -TERM $$": 3,
		} {
			c := shellConfig(t, script)
			c.Runtime = runtime
			if o, err := e.run(c, ""); err != nil || o.ExitCode != want {
				t.Errorf("%q: exit code %d, %v; want %d", script, o.ExitCode, err, want)
			}
		}
		for cmd, want := range map[string]int{
			"nosuch-command": ExitNotFound, "/nosuch/command": ExitNotFound, "/etc/passwd": ExitNotExecutable, "/usr": ExitNotExecutable,
			"/noexec/true": ExitNotExecutable,
		} {
			c := shellConfig(t, "cp /bin/true /noexec/true", "n:/noexec")
			c.Runtime = runtime
			if _, err := e.run(c, ""); err != nil {
				t.Fatal(err)
			}
			c = shellConfig(t, "", "n:/noexec:noexec,ro")
			c.Runtime, c.Args = runtime, []string{cmd}
			_, err := e.run(c, "")
			if x := (*ExecError)(nil); !errors.As(err, &x) || x.ExitCode != want {
				t.Errorf("%q: %v; want exit code %d", cmd, err, want)
			}
		}
		e.checkClean()
	})
}

// A volume may hide the command, its linker or its interpreter.
func TestHiddenCommand(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e *env, runtime string) {
		c := shellConfig(t, `cd /f; printf '#!/nosuch/interp\n' > script; echo x > garbage; chmod 755 *; ln -s /bin/sh sh; ln -s nowhere dangling;`+
			`ln -s ../f/sh up; printf '#! /bin/sh -e\nexit 3' > good; chmod 755 good`, "f:/f")
		c.Runtime = runtime
		if o, err := e.run(c, ""); err != nil || o.ExitCode != 0 {
			t.Fatalf("%+v, %v", o, err)
		}
		for _, hidden := range []string{"/usr", "/usr/bin", "/bin", "/lib64"} {
			c := shellConfig(t, "true", "new:"+hidden)
			c.Runtime = runtime
			checkExec(t, e, c, ExitNotFound)
		}
		for cmd, want := range map[string]int{
			"/f/script": ExitNotFound, "/f/dangling": ExitNotFound, "/tmp/sh": ExitNotFound, "/f": ExitNotExecutable,
			"/f/sh": 0, "/f/up": 0, "/f/good": 3, "/f/../f/./good": 3, "/tmp/../f/sh": 0,
		} {
			c := Config{Runtime: runtime, Args: []string{cmd, "-c", "exit 0"}, Mounts: shellConfig(t, "", "f:/f").Mounts}
			checkExec(t, e, c, want)
		}
		if _, err := e.store.Get(testContext(t), "new"); !errors.Is(err, vole.ErrNotFound) {
			t.Errorf("the volume that was made in vain: %v", err)
		}
		e.checkClean()
	})
}

// checkExec checks the exit code of a command, or that it cannot be executed with it.
func checkExec(t *testing.T, e *env, c Config, want int) {
	t.Helper()
	o, err := e.run(c, "")
	if want < ExitVole && (err != nil || o.ExitCode != want) {
		t.Errorf("%q %v: %+v, %v; want exit code %d", c.Args, c.Mounts, o, err, want)
	}
	if x := (*ExecError)(nil); want >= ExitVole && (!errors.As(err, &x) || x.ExitCode != want || strings.Contains(err.Error(), c.Runtime+": ")) {
		t.Errorf("%q %v: %v; want exit code %d", c.Args, c.Mounts, err, want)
	}
}

func TestSignals(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e *env, runtime string) {
		c := shellConfig(t, "trap 'echo got; exit 4' USR1; echo ready; while :; do sleep 0.05; done")
		c.Runtime = runtime
		signals := make(chan os.Signal, 1)
		r, w := io.Pipe()
		go func() {
			r.Read(make([]byte, 6))
			signals <- syscall.SIGUSR1
			io.Copy(io.Discard, r)
		}()
		res, err := e.m.Run(testContext(t), c, IO{Stdout: w, Signals: signals})
		if err != nil || res.ExitCode != 4 {
			t.Fatalf("%+v, %v", res, err)
		}
	})
}

// syncBuffer may be written and read at once.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestTerminal(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e *env, runtime string) {
		c := shellConfig(t, `test -t 0 && test -t 1 && test -t 2 && echo terminal; read x; echo "<$x>"; stty size; sleep 9; exit 1`)
		c.Runtime, c.Terminal = runtime, true
		in, keys := io.Pipe()
		resize := make(chan WindowSize, 1)
		resize <- WindowSize{Rows: 33, Cols: 77}
		var out syncBuffer
		go func() {
			waitUntil(t, "prompt", func() bool { return strings.Contains(out.String(), "terminal") })
			io.WriteString(keys, "typed\r")
			waitUntil(t, "size", func() bool { return strings.Contains(out.String(), "33 77") })
			io.WriteString(keys, "\x03") // ^C
		}()
		res, err := e.m.Run(testContext(t), c, IO{Stdin: in, Stdout: &out, Resize: resize})
		if err != nil || res.ExitCode != 130 {
			t.Errorf("%+v, %v; want exit code 130", res, err)
		}
		if got := out.String(); !strings.Contains(got, "<typed>\r\n") {
			t.Errorf("output %q", got)
		}
	})
}

// waitUntil waits until ok is true.
func waitUntil(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("%s: not in 20 seconds", what)
			return
		}
	}
}

func TestEnvUserAndDirectory(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e *env, runtime string) {
		c := shellConfig(t, `echo "$A|$HOME|$PWD|$(id -u):$(id -g)|$(hostname)"`)
		c.Runtime, c.Env, c.Cwd, c.User, c.Name = runtime, []string{"A=1", "A=2"}, "/usr/lib", "nobody", "my_box"
		o, err := e.run(c, "")
		if want := "2|/nonexistent|/usr/lib|65534:65534|my-box\n"; err != nil || o.out != want {
			t.Errorf("%q, %v; want %q", o.out, err, want)
		}
		c.User = "1234:4321"
		if o, err := e.run(c, ""); err != nil || !strings.Contains(o.out, "|1234:4321|") {
			t.Errorf("%q, %v", o.out, err)
		}
		c.User = "nobodyknows"
		if _, err := e.run(c, ""); !errors.Is(err, vole.ErrInvalid) {
			t.Errorf("unknown user: %v", err)
		}
	})
}

func TestCancel(t *testing.T) {
	e := anyEnv(t)
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err := e.m.Run(ctx, shellConfig(t, "sleep 60", "v:/v"), IO{})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > time.Minute {
		t.Errorf("%v after %v", err, time.Since(begin))
	}
	e.checkClean()
}

func TestParallelRuns(t *testing.T) {
	e := anyEnv(t)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			c := shellConfig(t, fmt.Sprintf("echo %d > /v/%d; cat /v/%d", i, i, i), "shared:/v")
			if o, err := e.run(c, ""); err != nil || o.out != fmt.Sprintf("%d\n", i) {
				t.Errorf("%d: %+v, %v", i, o, err)
			}
		})
	}
	wg.Wait()
	if got := strings.Fields(e.runShell("ls /v", "shared:/v:ro")); len(got) != 12 {
		t.Errorf("files %v", got)
	}
	e.checkClean()
}

func TestNames(t *testing.T) {
	e := anyEnv(t)
	c := shellConfig(t, "sleep 60")
	c.Name = "twin"
	i, err := e.m.Start(testContext(t), c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.run(c, ""); !errors.Is(err, vole.ErrExists) {
		t.Errorf("second of the name: %v", err)
	}
	if err := e.m.Stop(testContext(t), i.ID, 0); err != nil {
		t.Fatal(err)
	}
	c.Args = []string{"true"}
	if _, err := e.run(c, ""); err != nil {
		t.Errorf("after it ended: %v", err)
	}
	for _, bad := range []string{"-x", "a b", strings.Repeat("n", 65), "x/y"} {
		c.Name = bad
		if _, err := e.run(c, ""); !errors.Is(err, vole.ErrInvalid) {
			t.Errorf("name %q: %v", bad, err)
		}
	}
}

func TestLimits(t *testing.T) {
	e := anyEnv(t)
	c := shellConfig(t, "head -c 300000000 /dev/zero | tail -c 250000000 | wc -c")
	c.Memory = 64 * vole.MiB
	if o, err := e.run(c, ""); err != nil || strings.TrimSpace(o.out) == "250000000" {
		t.Errorf("memory: %+v, %v", o, err)
	}
	c = shellConfig(t, "for i in 1 2 3 4 5 6 7 8 9; do sleep 2 & done; wait")
	c.Pids = 5
	if o, err := e.run(c, ""); err != nil || o.ExitCode == 0 {
		t.Errorf("pids: %+v, %v", o, err)
	}
	for what, c := range map[string]Config{
		"memory": {Args: []string{"true"}, Memory: 1}, "pids": {Args: []string{"true"}, Pids: -2}, "cpus": {Args: []string{"true"}, CPUs: -1},
	} {
		if _, err := e.run(c, ""); !errors.Is(err, vole.ErrInvalid) {
			t.Errorf("bad %s: %v", what, err)
		}
	}
}

func TestNoRuntime(t *testing.T) {
	e := newEnv(t)
	t.Setenv("PATH", t.TempDir())
	if _, err := e.run(Config{Args: []string{"true"}, Runtime: "nosuch"}, ""); !errors.Is(err, vole.ErrInvalid) {
		t.Errorf("unknown runtime: %v", err)
	}
	broken := t.TempDir() + "/crun"
	if err := os.WriteFile(broken, []byte("#!/bin/sh\necho broken >&2; exit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := shellConfig(t, "true", "v:/v")
	c.Runtime = broken
	if _, err := e.run(c, ""); err == nil || !strings.Contains(err.Error(), "crun") {
		t.Errorf("broken runtime: %v", err)
	}
	if _, err := e.store.Get(testContext(t), "v"); !errors.Is(err, vole.ErrNotFound) {
		t.Errorf("the volume that was made in vain: %v", err)
	}
	e.checkClean()
}
