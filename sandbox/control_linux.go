package sandbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	nolinks "github.com/volehq/vole/internal/beneath"
)

// Other processes reach a supervisor by a unix socket in the sandbox's directory,
// which only the owner of the home can enter: one request and one answer in JSON.

// controlRequest is what another process asks of a supervisor.
type controlRequest struct {
	Op      string        `json:"op"` // pause, resume, stop
	Timeout time.Duration `json:"timeout,omitempty"`
}

// controlAnswer says how a request ended; without an error it is done.
type controlAnswer struct {
	Error *wireError `json:"error,omitempty"`
}

// controlSocketAddr names a sandbox's socket however long the path of its directory is; the
// kernel takes 107 bytes. The file must stay open while the address is used.
func (m *Manager) controlSocketAddr(id string) (*net.UnixAddr, *os.File, error) {
	d, err := nolinks.OpenDir(m.sandboxesDir, id)
	if err != nil {
		return nil, nil, err
	}
	if nolinks.IsLink(d, controlFile) {
		d.Close()
		return nil, nil, driver.Errorf(vole.ErrCorrupt, "the socket of sandbox %s is a symbolic link; remove it", id)
	}
	return &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), controlFile)}, d, nil
}

// controlServer answers the requests to one supervisor.
type controlServer struct {
	l    *net.UnixListener
	wait sync.WaitGroup
}

// startControlServer listens on the sandbox's socket, and answers each connection in a goroutine.
// closeServer waits for all of them.
func startControlServer(r *supervisedSandbox) (*controlServer, error) {
	addr, dir, err := r.m.controlSocketAddr(r.info.ID)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	l, err := net.ListenUnix("unix", addr)
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // by then the name means something else; removeLeftovers removes the file
	s := &controlServer{l: l}
	s.wait.Go(func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return // closed
			}
			s.wait.Go(func() { r.answerControl(c) })
		}
	})
	return s, nil
}

// closeServer ends the server, when the sandbox has ended: every request in work ends too.
func (s *controlServer) closeServer() {
	s.l.Close()
	s.wait.Wait()
}

// answerControl reads one request of a connection, executes it and answers.
func (r *supervisedSandbox) answerControl(c *net.UnixConn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * patience)) // a slow client is its own problem
	var q controlRequest
	if json.NewDecoder(io.LimitReader(c, maxPacket)).Decode(&q) != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = json.NewEncoder(c).Encode(controlAnswer{encodeError(r.executeRequest(ctx, q))})
}

func (r *supervisedSandbox) executeRequest(ctx context.Context, q controlRequest) error {
	switch q.Op {
	case "pause":
		return r.changeFreeze(ctx, StatusRunning, StatusPaused, q.Op)
	case "resume":
		return r.changeFreeze(ctx, StatusPaused, StatusRunning, q.Op)
	case "stop":
		return r.beginStop(ctx, q.Timeout)
	}
	return driver.Errorf(vole.ErrInvalid, "unknown request %q", q.Op)
}

// changeFreeze pauses or resumes the sandbox and stores its new status. from is the status
// that it must have.
func (r *supervisedSandbox) changeFreeze(ctx context.Context, from, to Status, op string) error {
	r.mu.Lock()
	defer r.mu.Unlock() // held throughout, so that a pause and a resume do not overlap
	if r.status != from {
		return driver.Errorf(vole.ErrInvalid, "cannot %s a sandbox that is %s", op, r.status)
	}
	if !r.canFreeze && r.info.Runtime != "runsc" {
		return driver.Errorf(vole.ErrUnsupported, "%v; or with the runtime runsc", cgroups{}.explainUnavailable("pausing a sandbox", "freezer"))
	}
	if err := r.freezeProcesses(ctx, op); err != nil {
		return err
	}
	r.status = to
	return r.m.rows.setStatus(ctx, r.info.ID, to)
}

// freezeProcesses freezes or thaws the sandbox's processes, by its delegated control group
// or by the runtime.
func (r *supervisedSandbox) freezeProcesses(ctx context.Context, op string) error {
	if r.group != "" && r.info.Runtime != "runsc" {
		return freezeCgroup(ctx, r.group, op == "pause")
	}
	return r.helper.sendRequest(ctx, request{Op: op})
}

// beginStop sets the status to draining, sends SIGTERM and returns; the time-out goes on in
// the background.
func (r *supervisedSandbox) beginStop(ctx context.Context, timeout time.Duration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.status
	if was == StatusDraining {
		return r.killAfter(timeout) // a second stop may be less patient
	}
	r.status = StatusDraining
	close(r.stopping)
	if err := r.m.rows.setStatus(ctx, r.info.ID, StatusDraining); err != nil {
		return err
	}
	if r.helper == nil {
		return nil // run finds r.stopping closed
	}
	if was == StatusPaused {
		if err := r.freezeProcesses(ctx, "resume"); err != nil && !errors.Is(err, errGone) {
			return err
		}
	}
	if was == StatusPaused || was == StatusRunning {
		if err := r.helper.signalCommand(ctx, syscall.SIGTERM); err != nil && !errors.Is(err, errGone) {
			return err
		}
	}
	return r.killAfter(timeout)
}

// killAfter kills the command when it has not ended in time, and after that the helper.
func (r *supervisedSandbox) killAfter(timeout time.Duration) error {
	h := r.helper
	if h == nil {
		return nil
	}
	go func() {
		select {
		case <-h.done:
			return
		case <-time.After(timeout):
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience/4)
		defer cancel()
		_ = h.signalCommand(ctx, syscall.SIGKILL) // whether it worked shows next
		select {
		case <-h.done:
		case <-ctx.Done():
			_ = thawSandbox(r.info.ID)
			h.killHelper()
		}
	}()
	return nil
}

// requestControl sends a request to a sandbox's supervisor.
func (m *Manager) requestControl(ctx context.Context, ref string, request controlRequest) error {
	info, err := m.rows.findSandbox(ctx, ref)
	if err != nil {
		return err
	}
	if !info.Status.Live() {
		return driver.Errorf(vole.ErrInvalid, "sandbox %s is %s", info.Name, info.Status)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	c, err := m.dialSupervisor(ctx, info.ID)
	if err != nil {
		return m.explainDialError(ctx, info, err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Now()) })()
	var a controlAnswer
	if err := cmp.Or(json.NewEncoder(c).Encode(request), json.NewDecoder(c).Decode(&a)); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if request.Op == "stop" {
			return nil // it ended on its own; the caller waits for that anyway
		}
		return m.explainDialError(ctx, info, err)
	}
	return a.Error.decodeError()
}

func (m *Manager) dialSupervisor(ctx context.Context, id string) (net.Conn, error) {
	addr, dir, err := m.controlSocketAddr(id)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var d net.Dialer
	return d.DialContext(ctx, "unix", addr.Name)
}

// explainDialError tells why a supervisor could not be reached.
func (m *Manager) explainDialError(ctx context.Context, i Info, err error) error {
	if err := m.reapDeadSandboxes(ctx); err != nil {
		return err
	}
	if now, gerr := m.rows.findSandbox(ctx, i.ID); errors.Is(gerr, vole.ErrNoSuch) || gerr == nil && !now.Status.Live() {
		return driver.Errorf(vole.ErrInvalid, "sandbox %s has ended", i.Name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return driver.Errorf(vole.ErrInUse, "sandbox %s is just being made, or ending", i.Name)
	}
	return fmt.Errorf("reach the supervisor of sandbox %s (process %d): %w", i.Name, i.PID, err)
}

func thawSandbox(id string) error {
	dirs, err := cgroupsOf(id)
	for _, dir := range dirs {
		thawCgroup(dir)
	}
	return err
}
