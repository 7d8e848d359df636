package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/volehq/vole"
	"github.com/volehq/vole/internal/proc"
)

func (e *env) statusOf(ref string) Status {
	e.t.Helper()
	i, err := e.m.Get(testContext(e.t), ref)
	if err != nil {
		e.t.Fatal(err)
	}
	return i.Status
}

func TestDetachedLife(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e *env, runtime string) {
		c := shellConfig(t, "i=0; while :; do i=$((i+1)); echo $i > /v/count; sleep 0.02; done", "v:/v")
		c.Runtime, c.Name = runtime, "box"
		ctx := testContext(t)
		i, err := e.m.Start(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		if i.Status != StatusRunning || !i.Detached || i.PID == os.Getpid() || i.Runtime != runtime {
			t.Errorf("%+v", i)
		}
		pauseAndResume(t, e, i)
		if err := e.m.Pause(ctx, "box"); err != nil {
			t.Fatal(err)
		}
		if err := e.m.Stop(ctx, "box", 10*time.Second); err != nil { // from paused
			t.Fatal(err)
		}
		got, err := e.m.Get(ctx, "box")
		if err != nil || got.Status != StatusStopped || got.ExitCode == nil || *got.ExitCode != 143 || got.Ended == nil {
			t.Errorf("%+v, %v", got, err)
		}
		if err := e.m.Stop(ctx, "box", 0); !errors.Is(err, vole.ErrInvalid) {
			t.Errorf("stop of a stopped one: %v", err)
		}
		if err := e.m.Stop(ctx, "nosuch", 0); !errors.Is(err, vole.ErrNoSuch) {
			t.Errorf("stop of none: %v", err)
		}
		e.checkClean()
	})
}

// pauseAndResume pauses a running sandbox that counts in its volume, and resumes it.
func pauseAndResume(t *testing.T, e *env, i Info) {
	t.Helper()
	ctx := testContext(t)
	count := func() string {
		b, _ := os.ReadFile(filepath.Join(e.volumePath("v"), "count"))
		return string(b)
	}
	moves := func() bool {
		was := count()
		time.Sleep(300 * time.Millisecond)
		return count() != was
	}
	waitUntil(t, "count", func() bool { return count() != "" })
	if err := e.m.Resume(ctx, i.Name); !errors.Is(err, vole.ErrInvalid) {
		t.Errorf("resume of a running one: %v", err)
	}
	if err := e.m.Pause(ctx, i.Name); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	if e.statusOf(i.Name) != StatusPaused || moves() {
		t.Errorf("paused: %s, moves", e.statusOf(i.Name))
	}
	if err := e.m.Pause(ctx, i.Name); !errors.Is(err, vole.ErrInvalid) {
		t.Errorf("pause of a paused one: %v", err)
	}
	if err := e.m.Resume(ctx, i.ID); err != nil {
		t.Fatal(err)
	}
	if s := e.statusOf(i.Name); s != StatusRunning {
		t.Errorf("resumed: %s", s)
	}
	waitUntil(t, "movement after resume", moves)
}

func TestStopDrains(t *testing.T) {
	e := anyEnv(t)
	ctx := testContext(t)
	c := shellConfig(t, "trap 'echo draining > /v/f' TERM; touch /v/up; while :; do sleep 0.05; done", "v:/v")
	c.Name = "stubborn"
	if _, err := e.m.Start(ctx, c); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "trap", func() bool { _, err := os.Stat(e.volumePath("v") + "/up"); return err == nil })
	stopped := make(chan error, 1)
	begin := time.Now()
	go func() { stopped <- e.m.Stop(ctx, "stubborn", time.Second) }()
	waitUntil(t, "SIGTERM", func() bool { _, err := os.Stat(e.volumePath("v") + "/f"); return err == nil })
	if s := e.statusOf("stubborn"); s != StatusDraining {
		t.Errorf("status %s", s)
	}
	if err := e.store.Remove(ctx, "v"); !errors.Is(err, vole.ErrInUse) {
		t.Errorf("remove, draining: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < time.Second || took > time.Minute {
		t.Errorf("took %v", took)
	}
	if i, err := e.m.Get(ctx, "stubborn"); err != nil || i.Status != StatusStopped || i.ExitCode == nil || *i.ExitCode != 137 {
		t.Errorf("%+v, %v", i, err)
	}
	e.checkClean()
}

func TestLogs(t *testing.T) {
	e := anyEnv(t)
	ctx := testContext(t)
	c := shellConfig(t, "echo one; echo two >&2; sleep 0.5; echo three")
	c.Name = "talker"
	if _, err := e.m.Start(ctx, c); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := e.m.Logs(ctx, "talker", &out, true); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"one\n", "two\n", "three\n"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("log %q lacks %q", out.String(), line)
		}
	}
	o, err := e.run(shellConfig(t, "true"), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := e.m.Logs(ctx, o.Name, &out, false); !errors.Is(err, vole.ErrUnsupported) {
		t.Errorf("logs of one in the foreground: %v", err)
	}
	c = shellConfig(t, "echo x")
	c.Remove, c.Name = true, "brief"
	if _, err := e.m.Start(ctx, c); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "forgotten", func() bool { _, err := e.m.Get(ctx, "brief"); return errors.Is(err, vole.ErrNoSuch) })
}

func TestLogIsBounded(t *testing.T) {
	top, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	l := &logWriter{top: top, name: "log"}
	line := strings.Repeat("x", 1<<20-1) + "\n"
	for range 40 {
		if n, err := l.Write([]byte(line)); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
	}
	l.Close()
	var out bytes.Buffer
	r := openLogReader(top, "log")
	defer r.Close()
	if err := r.copyLogTo(&out); err != nil {
		t.Fatal(err)
	}
	if n := out.Len(); n < maxLog || n > 2*maxLog {
		t.Errorf("%d bytes of 40 MiB are kept", n)
	}
}

// victims are the parts of a sandbox, found by the supervisor's process id.
var victims = map[string]func(supervisor int) int{
	"supervisor": func(pid int) int { return pid },
	"helper":     childOf,
	"command":    func(pid int) int { return lastChild(childOf(pid)) },
	"reaper":     func(pid int) int { return childOf(childOf(pid)) },
}

// Death of any part, at any time, leaves nothing.
func TestKill(t *testing.T) {
	for victim := range victims {
		t.Run(victim, func(t *testing.T) { killVictim(t, victim, false) })
		t.Run(victim+", paused", func(t *testing.T) { killVictim(t, victim, true) })
	}
}

// killVictim kills one process of a sandbox and waits until all of it is cleaned up.
func killVictim(t *testing.T, victim string, paused bool) {
	e := anyEnv(t)
	c := shellConfig(t, "sleep 300 & sleep 300", "v:/v")
	c.Name = "victim"
	i, err := e.m.Start(testContext(t), c)
	if err != nil {
		t.Fatal(err)
	}
	if paused {
		if err := e.m.Pause(testContext(t), i.ID); err != nil {
			t.Fatal(err)
		}
	}
	pid := victims[victim](i.PID)
	if pid <= 1 {
		t.Fatal("victim not found")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if paused && (victim == "command" || victim == "reaper") {
		// Frozen processes die when they go on.
		if err := e.m.Resume(testContext(t), i.ID); err != nil {
			t.Log(err) // it may have ended first
		}
	}
	waitUntil(t, "end", func() bool {
		if err := e.m.Reap(testContext(t)); err != nil {
			t.Fatal(err)
		}
		return !e.statusOf("victim").Live()
	})
	if s := e.statusOf("victim"); (victim == "supervisor" || victim == "helper") != (s == StatusCrashed) {
		t.Errorf("status %s", s)
	}
	waitUntil(t, "processes gone", func() bool { return len(processesOf(i.ID, e.home)) == 0 })
	e.checkClean()
	if err := e.store.Remove(testContext(t), "v"); err != nil {
		t.Error(err)
	}
}

// TestKillStarting kills the supervisor at many instants of its start.
func TestKillStarting(t *testing.T) {
	e := anyEnv(t)
	for n := range 25 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(n)*4*time.Millisecond)
		_, _ = e.m.Start(ctx, shellConfig(t, "sleep 300", "v:/v")) // the end of ctx kills it
		cancel()
	}
	list, err := e.m.List(testContext(t), false)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range list { // those that were fast enough, and the dead
		if i.Status == StatusRunning {
			_ = e.m.Stop(testContext(t), i.ID, 0)
		}
	}
	waitUntil(t, "all reaped", func() bool {
		if err := e.m.Reap(testContext(t)); err != nil {
			t.Fatal(err)
		}
		list, err := e.m.List(testContext(t), false)
		return err == nil && len(list) == 0
	})
	waitUntil(t, "processes gone", func() bool { return len(processesOf("no id", e.home)) == 0 })
	e.checkClean()
}

func childrenOf(pid int) []int {
	out, _ := exec.Command("pgrep", "-P", strconv.Itoa(pid)).Output()
	var list []int
	for _, f := range strings.Fields(string(out)) {
		n, _ := strconv.Atoi(f)
		list = append(list, n)
	}
	return list
}

func childOf(pid int) int {
	if c := childrenOf(pid); len(c) > 0 {
		return c[0]
	}
	return 0
}

func lastChild(pid int) int {
	if c := childrenOf(pid); len(c) > 0 {
		return c[len(c)-1]
	}
	return 0
}

// TestReapAwaitsHelper leaves a sandbox whose supervisor is dead and whose helper is not
// yet: while the helper lives it may run what makes control groups, so the sandbox is
// cleaned up only when it is gone.
func TestReapAwaitsHelper(t *testing.T) {
	e := newEnv(t)
	helper := exec.Command("sleep", "300")
	if err := helper.Start(); err != nil {
		t.Fatal(err)
	}
	end := sync.OnceFunc(func() {
		_ = helper.Process.Kill()
		_ = helper.Wait()
	})
	t.Cleanup(end)
	id := e.deadSandbox()
	if err := e.m.recordHelper(id, helper.Process.Pid); err != nil {
		t.Fatal(err)
	}
	reaped := make(chan error, 1)
	go func() { reaped <- e.m.Reap(testContext(t)) }()
	for range 20 {
		time.Sleep(5 * time.Millisecond)
		if i, err := e.m.rows.findSandbox(testContext(t), id); err != nil || !i.Status.Live() {
			t.Fatalf("while the helper lives: %+v, %v", i, err)
		}
	}
	end()
	if err := <-reaped; err != nil {
		t.Fatal(err)
	}
	if i, err := e.m.rows.findSandbox(testContext(t), id); err != nil || i.Status != StatusCrashed {
		t.Errorf("when the helper is gone: %+v, %v", i, err)
	}
}

// TestForeignHelperRecord gives dead sandboxes records that name no helper of theirs:
// nobody waits for those.
func TestForeignHelperRecord(t *testing.T) {
	e := newEnv(t)
	self, err := proc.StartTicks(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	boot := readBootID()
	for _, record := range []string{
		"", "{", `{"pid": 1}`, `{"pid": -1}`,
		fmt.Sprintf(`{"boot": %q, "pid": %d, "start": %d}`, "another", os.Getpid(), self),
		fmt.Sprintf(`{"boot": %q, "pid": %d, "start": %d}`, boot, os.Getpid(), self+1),
		fmt.Sprintf(`{"boot": %q, "pid": 1, "start": 0}`, boot),
		strings.Repeat(" ", 1<<20),
	} {
		id := e.deadSandbox()
		if err := os.WriteFile(filepath.Join(e.m.sandboxDir(id), helperFile), []byte(record), 0o600); err != nil {
			t.Fatal(err)
		}
		if f := e.m.recordedHelper(id); f != nil {
			t.Errorf("%.80q is taken for a helper", record)
		}
		if err := e.m.Reap(testContext(t)); err != nil {
			t.Errorf("%.80q: %v", record, err)
		}
	}
}

// deadSandbox adds a sandbox whose supervisor died when it had its directory and row.
func (e *env) deadSandbox() string {
	e.t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		e.t.Fatal(err)
	}
	lock, err := e.m.makeLockedDir(id.String())
	if err != nil {
		e.t.Fatal(err)
	}
	lock.Release()
	err = e.m.rows.insertSandbox(testContext(e.t), Info{ID: id.String(), Name: "dead-" + id.String(), Status: StatusCreated, Created: time.Now()})
	if err != nil {
		e.t.Fatal(err)
	}
	return id.String()
}
