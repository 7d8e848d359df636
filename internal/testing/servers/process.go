package servers

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// patience bounds each wait for a server to start or to end. Tests of many packages
// run at once, under the race detector, on few cores.
const patience = time.Minute

// process is a server that ends when this process does, however that comes about.
type process struct {
	cmd  *exec.Cmd
	log  string        // file with what it prints
	done chan struct{} // closed when the process has ended
}

// startProcess runs cmd, whose output goes to the file log. When this process dies, the
// kernel sends deathsig to the server (on Linux).
func startProcess(cmd *exec.Cmd, log string, deathsig syscall.Signal) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = out, out
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	ownGroup(cmd.SysProcAttr) // Ctrl-C is for this process, which then stops it
	dieWithParent(cmd.SysProcAttr, deathsig)
	p := &process{cmd: cmd, log: log, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// To the kernel the parent is the thread that forked, not the process: the
		// thread is held for as long as the server runs.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		out.Close()
		started <- err
		if err == nil {
			_ = cmd.Wait() // killed servers end with an error; the log has the others' reasons
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// running reports whether the process has not ended.
func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// signalAndWait sends sig and waits until the process ends. After patience it is killed.
func (p *process) signalAndWait(sig syscall.Signal) error {
	if !p.running() {
		return nil
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(patience):
	}
	_ = p.cmd.Process.Kill()
	<-p.done
	return fmt.Errorf("%s did not end on %v within %v and was killed", filepath.Base(p.cmd.Path), sig, patience)
}

// withLog adds the end of the server's log to the error of a server that did not start.
func (p *process) withLog(cause error) error {
	log, _ := os.ReadFile(p.log)
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	lines = lines[max(0, len(lines)-10):]
	return fmt.Errorf("%s did not start: %w\n%s", filepath.Base(p.cmd.Path), cause, strings.Join(lines, "\n"))
}

var errEnded = errors.New("the process ended")
