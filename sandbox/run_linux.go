package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/flock"
)

// Run runs a command in a sandbox and returns when it ended. The sandbox ends with
// this process, and when ctx does: then it is killed, and the error is that of ctx.
//
// An error means that the command did not run to its end: [*ExecError] when it was not
// found or cannot be executed, ErrInvalid for a Config that makes no sense, ErrExists
// for a name that is taken, ErrUnsupported when this host cannot do it, or the error that
// kept a volume from being attached. Volumes that this call made are then removed again.
func (m *Manager) Run(ctx context.Context, c Config, io IO) (Result, error) {
	return m.runWithErrors(ctx, c, io, false, func(Info) {})
}

// runWithErrors is runSandbox with its errors wrapped.
func (m *Manager) runWithErrors(ctx context.Context, c Config, io IO, detached bool, ready func(Info)) (Result, error) {
	res, err := m.runSandbox(ctx, c, io, detached, ready)
	return res, wrapError("run", cmp.Or(res.Name, c.Name), err)
}

// runSandbox implements Run and, in the supervisor, Start. Whatever ends the run, finishRun
// releases everything that claimNameAndLock and runHelper acquired, with a time limit of its
// own instead of ctx.
func (m *Manager) runSandbox(ctx context.Context, c Config, io IO, detached bool, ready func(Info)) (Result, error) {
	if err := cmp.Or(m.checkWritable(), c.prepareConfig(), c.checkEnforceable()); err != nil {
		return Result{}, err
	}
	find, found := cancelOnSignal(ctx, io.Signals)
	held, err := m.pinImage(find, &c)
	found()
	if err != nil {
		return Result{}, err
	}
	defer held.release()
	r := &supervisedSandbox{m: m, c: c, image: held, ready: ready}
	if err := r.claimNameAndLock(ctx, detached); err != nil {
		return Result{}, err
	}
	res := Result{ID: r.info.ID, Name: r.info.Name}
	out, err := r.runHelper(ctx, io)
	res.ExitCode = out.exit
	if err == nil {
		err = out.err
	}
	if err == nil && out.crashed {
		err = errors.New("the sandbox's helper died")
	}
	// Cleaning up must not be cut short by what ended the run.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*patience)
	defer cancel()
	cleanup := r.finishRun(end, out, err)
	if err == nil {
		res.Cleanup = cleanup
	}
	return res, err
}

// cancelOnSignal is ctx until a signal comes. The caller ends that by the function, and then
// gets the signals itself.
func cancelOnSignal(ctx context.Context, signals <-chan os.Signal) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-signals:
			cancel()
		case <-done:
		}
	}()
	return ctx, func() { close(done); <-ended; cancel() }
}

func (m *Manager) checkWritable() error {
	if m.store.Caps().ReadOnly {
		return driver.Errorf(vole.ErrReadOnly, "the home %s is open for reading only", m.home)
	}
	return nil
}

// prepareConfig checks c for this host.
func (c *Config) prepareConfig() error {
	if err := c.normalizeConfig(); err != nil {
		return err
	}
	if c.Image != "" {
		return c.prepareImage()
	}
	if c.Rootfs == "" {
		return nil
	}
	abs, err := filepath.Abs(c.Rootfs)
	if err != nil {
		return err
	}
	st, err := os.Stat(abs)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return driver.Errorf(vole.ErrNotDir, "the root %s is not a directory", c.Rootfs)
	}
	c.Rootfs = abs
	return nil
}

// supervisedSandbox is a sandbox in the process that supervises it. Its fields above mu belong
// to the goroutine of runSandbox.
type supervisedSandbox struct {
	m       *Manager
	c       Config
	info    Info
	image   *pinnedImage
	ready   func(Info)
	lock    *flock.Lock
	control *controlServer

	group     string // control group that was made for it, if any
	canFreeze bool   // that one, or the runtime's, can stop processes

	madeVolumes []*vole.Volume // volumes that this run made
	attached    []*vole.Attachment
	disks       []disk // those of attached that are images
	commandRan  bool   // the command came to run

	mu       sync.Mutex // guards the fields below
	helper   *helperProcess
	status   Status
	stopping chan struct{} // closed when a stop was asked for
}

// claimNameAndLock takes the sandbox's name, its directory and the lock that proves it alive.
func (r *supervisedSandbox) claimNameAndLock(ctx context.Context, detached bool) error {
	r.stopping = make(chan struct{})
	for {
		id, err := uuid.NewV7()
		if err != nil {
			return err
		}
		r.info = Info{
			ID: id.String(), Status: StatusCreated, Command: r.c.Args, Root: r.c.describeRoot(), Detached: detached,
			Runtime: r.c.Runtime, Mounts: []MountInfo{}, PID: os.Getpid(), Created: time.Now().UTC(),
		}
		if r.info.Command == nil {
			r.info.Command = []string{}
		}
		if r.lock, err = r.m.makeLockedDir(r.info.ID); err != nil {
			return err
		}
		if r.lock != nil {
			break
		}
	}
	r.status = StatusCreated
	err := r.insertRow(ctx)
	if err == nil {
		r.control, err = startControlServer(r)
	}
	if err != nil {
		_ = removeSandboxTree(ctx, r.m.sandboxesDir, r.info.ID) // else swept later
		r.lock.Release()
	}
	return err
}

// insertRow adds the sandbox's row under its name, or under one that is free.
func (r *supervisedSandbox) insertRow(ctx context.Context) error {
	if r.c.Name != "" {
		r.info.Name = r.c.Name
		return r.m.rows.insertSandbox(ctx, r.info)
	}
	for try := 0; ; try++ {
		r.info.Name = makeRandomName()
		if try > 4 {
			r.info.Name += "-" + r.info.ID[len(r.info.ID)-6:]
		}
		if err := r.m.rows.insertSandbox(ctx, r.info); !errors.Is(err, vole.ErrExists) || try > 10 {
			return err
		}
	}
}

// makeLockedDir makes and locks a sandbox's directory. No lock and no error: another process
// swept it as garbage before it was locked, which needs a clock that jumps.
func (m *Manager) makeLockedDir(id string) (*flock.Lock, error) {
	if err := os.Mkdir(m.sandboxDir(id), 0o700); err != nil {
		return nil, err
	}
	lock, err := flock.TryIn(m.sandboxesDir, id+"/"+lockFile)
	if err != nil || lock == nil {
		return nil, err
	}
	at, err1 := os.Lstat(filepath.Join(m.sandboxDir(id), lockFile))
	held, err2 := lock.File().Stat()
	if err1 != nil || err2 != nil || !os.SameFile(at, held) {
		lock.Release()
		return nil, nil
	}
	return lock, os.Mkdir(filepath.Join(m.sandboxDir(id), scratchDir), 0o700)
}

// runHelper brings the sandbox up, and returns when the helper is gone.
func (r *supervisedSandbox) runHelper(ctx context.Context, io IO) (outcome, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go r.forwardSignals(ctx, cancel, io.Signals)
	p, err := r.planHelper(ctx)
	if err != nil {
		return outcome{}, err
	}
	if err := r.attachVolumes(ctx, p); err != nil {
		return outcome{}, err
	}
	if err := r.m.rows.setVolumesAttached(ctx, r.info.ID, p.Runtime.Name, r.info.Mounts); err != nil {
		return outcome{}, err
	}
	r.info.Runtime = p.Runtime.Name
	s, err := openStreams(io, p.Terminal)
	if err != nil {
		return outcome{}, err
	}
	h, err := startHelper(ctx, p, s.child, r.inheritedHolds(), func(pid int) error { return r.m.recordHelper(p.ID, pid) })
	s.closeChildEnds()
	if err != nil {
		s.closeOwnEnds()
		return outcome{}, err
	}
	r.mu.Lock()
	r.helper, r.status = h, StatusStarting
	r.mu.Unlock()
	err = r.superviseHelper(ctx, h, s, io)
	return h.out, err
}

// superviseHelper moves the sandbox of a started helper through its states until the helper
// has ended. Every way out kills the helper first, so nothing of the sandbox runs on.
func (r *supervisedSandbox) superviseHelper(ctx context.Context, h *helperProcess, output *streams, io IO) error {
	select {
	case <-h.started:
	case <-h.done:
	case <-ctx.Done():
	case <-r.stopping:
	}
	select {
	case <-h.started: // before whatever else happened
		r.commandRan = true
		r.image.release() // it is unpacked
		now := time.Now().UTC()
		r.info.Started, r.info.Status = &now, StatusRunning
		r.setStatus(ctx, StatusRunning)
		r.ready(r.info)
		output.startCopying(h)
		if r.isStopping() {
			_ = h.signalCommand(ctx, syscall.SIGTERM) // the time-out takes care of the rest
		}
	default:
		h.killHelper() // told to end before the command ran, or dead
	}
	select {
	case <-h.done:
	case <-ctx.Done():
		_ = thawSandbox(r.info.ID)
		h.killHelper()
		<-h.done
	}
	if x := (*ExecError)(nil); !r.commandRan && h.out.err != nil && !errors.As(h.out.err, &x) {
		if c := output.readComplaint(); c != "" && !strings.Contains(h.out.err.Error(), c) {
			h.out.err = fmt.Errorf("%w: %s", h.out.err, c)
		}
	}
	output.drainAndClose(r.commandRan)
	if err := ctx.Err(); err != nil && (h.out.crashed || !r.commandRan) {
		return err
	}
	if r.isStopping() && !r.commandRan {
		return driver.Errorf(context.Canceled, "stopped before the command ran")
	}
	return nil
}

// forwardSignals passes signals on to the command. Before that runs, they end the attempt.
func (r *supervisedSandbox) forwardSignals(ctx context.Context, abort func(), signals <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case sig := <-signals:
			r.mu.Lock()
			h := r.helper
			r.mu.Unlock()
			n, ok := sig.(syscall.Signal)
			switch {
			case h == nil || !isChannelClosed(h.started):
				abort()
			case ok:
				_ = h.signalCommand(ctx, n) // it may have ended
			}
		}
	}
}

// isChannelClosed reports whether c is closed, without waiting. Nothing is ever sent on c.
func isChannelClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// setStatus moves the sandbox to s. Only other processes read the row, so a failure to write
// it does not stop the sandbox.
func (r *supervisedSandbox) setStatus(ctx context.Context, s Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.status == StatusDraining {
		return // draining ends only with the sandbox
	}
	r.status = s
	if s == StatusRunning && r.info.Started != nil {
		_ = r.m.rows.setRunning(ctx, r.info.ID, *r.info.Started)
		return
	}
	_ = r.m.rows.setStatus(ctx, r.info.ID, s)
}

func (r *supervisedSandbox) isStopping() bool { return isChannelClosed(r.stopping) }

// finishRun releases all that the sandbox held, in the reverse order, and stores how it ended.
func (r *supervisedSandbox) finishRun(ctx context.Context, out outcome, err error) error {
	defer r.lock.Release()
	r.control.closeServer()
	errs := []error{r.detachVolumes(ctx)}
	if !r.commandRan {
		errs = append(errs, r.removeMadeVolumes(ctx))
	}
	errs = append(errs, r.m.removeLeftovers(ctx, r.info.ID))
	status, msg := StatusStopped, ""
	var exit *int
	switch {
	case err != nil:
		msg = err.Error()
		if out.crashed && !r.isStopping() && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
			status = StatusCrashed
		}
		if e := (*ExecError)(nil); errors.As(err, &e) {
			exit = &e.ExitCode
		}
	default:
		exit = &out.exit
	}
	errs = append(errs, r.m.rows.setEnded(ctx, r.info.ID, status, exit, msg, time.Now()), r.m.removeEndedDir(ctx, r.info))
	if r.c.Remove {
		errs = append(errs, r.m.removeEnded(ctx, r.info.ID))
	} else {
		errs = append(errs, r.m.removeOldest(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}
