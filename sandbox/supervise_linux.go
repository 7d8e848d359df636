package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// outcome is how a helper ended.
type outcome struct {
	exit    int   // of the command
	err     error // the command did not start
	crashed bool  // the helper died without a word
}

// helperProcess is a helper, seen from its supervisor.
type helperProcess struct {
	conn     packets
	process  *os.Process
	terminal chan *os.File // the command's terminal, if it has one; before started
	started  chan struct{} // closed when the command runs
	done     chan struct{} // closed when the helper is gone, and all it ran
	out      outcome       // once done is closed

	mu      sync.Mutex // guards seq and answers
	seq     int
	answers map[int]chan error // nil once there will be none
}

// startHelper starts a helper on the plan, with the given files as the command's, and
// the holds of the plan's disks. The helper gets the plan when record has stored which
// process it is. ctx bounds the start only. If this process dies, the kernel kills the
// helper.
func startHelper(ctx context.Context, p *plan, stdio [3]*os.File, holds []*os.File, record func(pid int) error) (*helperProcess, error) {
	ours, theirs, err := makePacketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	planR, planW, err := os.Pipe()
	if err != nil {
		ours.c.Close()
		return nil, err
	}
	defer planR.Close()
	defer planW.Close()
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{asHelper}, Env: []string{"PATH=" + os.Getenv("PATH")}, Dir: "/",
		Stdin: stdio[0], Stdout: stdio[1], Stderr: stdio[2],
		ExtraFiles:  append([]*os.File{theirs, planR}, holds...),
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Setsid: true, Pdeathsig: unix.SIGKILL},
	}
	switch {
	case p.Ranges:
		cmd.Args = append(cmd.Args, "unmapped")
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
	case p.Rootless:
		mapSingleID(cmd.SysProcAttr)
	}
	h := &helperProcess{
		conn: ours, terminal: make(chan *os.File, 1), started: make(chan struct{}), done: make(chan struct{}),
		answers: map[int]chan error{},
	}
	if err := h.startOnOwnThread(cmd, p.ID); err != nil {
		ours.c.Close()
		return nil, explainHelperStart(err, p.Rootless)
	}
	// With our copies of its ends closed, the end of the helper is the end of both.
	theirs.Close()
	planR.Close()
	err = record(h.process.Pid)
	if err == nil {
		err = sendPlan(ctx, p, h.process.Pid, planW)
	}
	if err != nil {
		h.killHelper()
		<-h.done
		return nil, err
	}
	return h, nil
}

// explainHelperStart says what to do about a helper that could not be started.
func explainHelperStart(err error, rootless bool) error {
	if rootless && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EUSERS)) {
		return fmt.Errorf("this system does not let users make user namespaces, which sandboxes without root need: %w", err)
	}
	return fmt.Errorf("start the sandbox's helper: %w", err)
}

// sendPlan writes the plan to the helper's pipe. In a user namespace it first has the id maps
// written, for which the helper waits.
func sendPlan(ctx context.Context, p *plan, pid int, w *os.File) error {
	if p.Ranges {
		if err := findIDRanges().writeIDMaps(ctx, pid); err != nil {
			return err
		}
	}
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if _, err := w.Write(b); err != nil {
		return err
	}
	return w.Close()
}

// startOnOwnThread starts the helper from a thread that lives as long as the helper does: the
// kernel takes the death of that thread for the parent's.
func (h *helperProcess) startOnOwnThread(cmd *exec.Cmd, id string) error {
	errs := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		h.process = cmd.Process
		errs <- err
		if err != nil {
			return
		}
		read := make(chan outcome, 1)
		go func() {
			out := h.readEvents()
			if out.crashed {
				go h.thawUntilDone(id)
			}
			read <- out
		}()
		_ = cmd.Wait() // what matters it has said
		h.out = <-read
		h.conn.c.Close()
		close(h.done)
	}()
	return <-errs
}

// thawEvery is how often what should die is thawed.
const thawEvery = 50 * time.Millisecond

// thawUntilDone lets frozen processes die of their helper's death, which takes effect
// only when they run.
func (h *helperProcess) thawUntilDone(id string) {
	for {
		_ = thawSandbox(id)
		select {
		case <-h.done:
			return
		case <-time.After(thawEvery):
		}
	}
}

// readEvents takes the helper's events until it is gone.
func (h *helperProcess) readEvents() outcome {
	out := outcome{crashed: true}
	for {
		var e event
		f, err := h.conn.receivePacket(&e)
		if err != nil {
			break
		}
		switch e.Type {
		case "terminal":
			h.terminal <- f
			f = nil
		case "started":
			close(h.started)
		case "ended":
			out = outcome{exit: e.Exit}
		case "failed":
			out = outcome{err: e.Error.decodeError()}
		case "answer":
			h.completeRequest(e.Seq, e.Error.decodeError())
		}
		if f != nil {
			f.Close()
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.answers {
		c <- errGone
	}
	h.answers = nil
	return out
}

var errGone = errors.New("the sandbox has ended")

// completeRequest gives a request's answer to the goroutine that waits for it.
func (h *helperProcess) completeRequest(seq int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.answers[seq]; c != nil {
		c <- err
		delete(h.answers, seq)
	}
}

// sendRequest asks the helper for something and waits for its answer.
func (h *helperProcess) sendRequest(ctx context.Context, r request) error {
	c := make(chan error, 1)
	h.mu.Lock()
	if h.answers == nil {
		h.mu.Unlock()
		return errGone
	}
	h.seq++
	r.Seq = h.seq
	h.answers[r.Seq] = c
	h.mu.Unlock()
	if err := h.conn.sendPacket(r, nil); err != nil {
		return errGone
	}
	select {
	case err := <-c:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// signalCommand sends a signal to the command.
func (h *helperProcess) signalCommand(ctx context.Context, sig syscall.Signal) error {
	return h.sendRequest(ctx, request{Op: "signal", Signal: int(sig)})
}

// killHelper ends the helper and all that runs in it.
func (h *helperProcess) killHelper() {
	_ = h.process.Kill() // it may be gone
}

// patience is how long this package waits for something that takes milliseconds.
const patience = 20 * time.Second
