package sandbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// order is the message to a new detached supervisor: the sandbox to run.
type order struct {
	Home        string
	ForeignHome bool
	Config      Config
}

// report is the one answer of a detached supervisor: the sandbox runs, or why it does not.
type report struct {
	Info  Info
	Error *wireError
}

// Start runs a command in a sandbox that goes on when this process ends, and returns
// when the command runs. Its output goes to the sandbox's log. Errors are those of
// [Manager.Run]; ctx bounds the start only.
func (m *Manager) Start(ctx context.Context, c Config) (Info, error) {
	i, err := m.startDetached(ctx, c)
	return i, wrapError("run", cmp.Or(i.Name, c.Name), err)
}

// startDetached starts a supervisor as a process of its own session, sends it the
// configuration and waits for its one report. When ctx ends first, the supervisor is killed:
// the kernel then ends its helper, and the next use of the home cleans up.
func (m *Manager) startDetached(ctx context.Context, config Config) (Info, error) {
	if err := cmp.Or(m.checkWritable(), config.prepareConfig(), config.checkEnforceable()); err != nil {
		return Info{}, err
	}
	// Here, where its progress is seen. The supervisor finds it in the cache.
	held, err := m.pinImage(ctx, &config)
	if err != nil {
		return Info{}, err
	}
	defer held.release()
	orderR, orderW, err := os.Pipe()
	if err != nil {
		return Info{}, err
	}
	defer orderR.Close()
	defer orderW.Close()
	reportR, reportW, err := os.Pipe()
	if err != nil {
		return Info{}, err
	}
	defer reportR.Close()
	defer reportW.Close()
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{asSupervisor}, Env: os.Environ(), Dir: "/",
		ExtraFiles:  []*os.File{orderR, reportW},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := cmd.Start(); err != nil {
		return Info{}, fmt.Errorf("start the sandbox's supervisor: %w", err)
	}
	go cmd.Wait() // so that it leaves no zombie while this process lives
	orderR.Close()
	reportW.Close()
	defer context.AfterFunc(ctx, func() {
		_ = cmd.Process.Kill() // the kernel cleans up, and the next command
		_ = reportR.SetReadDeadline(time.Now())
	})()
	if err := json.NewEncoder(orderW).Encode(order{m.home, m.store.Local().Foreign(), config}); err != nil {
		return Info{}, err
	}
	var rep report
	if err := json.NewDecoder(reportR).Decode(&rep); err != nil {
		if ctx.Err() != nil {
			return Info{}, ctx.Err()
		}
		return Info{}, fmt.Errorf("the sandbox's supervisor died: %w", err)
	}
	return rep.Info, rep.Error.decodeError()
}

// runSupervisorProcess is the supervisor of a detached sandbox.
func runSupervisorProcess() int {
	const fdOrder, fdReport = 3, 4
	orders, reports := os.NewFile(fdOrder, "order"), os.NewFile(fdReport, "report")
	if err := setCloseOnExec(fdOrder); err != nil {
		return 1
	}
	// Caught and dropped: the command would inherit it if it were ignored.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	reported := false
	tell := func(i Info, err error) {
		if !reported {
			reported = true
			if own, ok := err.(*vole.Error); ok && own.Op == "run" {
				err = own.Err // Start names the operation
			}
			_ = json.NewEncoder(reports).Encode(report{i, encodeError(err)}) // the caller may be gone
			reports.Close()
		}
	}
	var o order
	if err := json.NewDecoder(orders).Decode(&o); err != nil {
		return 1
	}
	orders.Close()
	err := superviseDetached(o, func(i Info) { tell(i, nil) })
	tell(Info{}, err)
	if err != nil {
		return 1
	}
	return 0
}

// superviseDetached runs the sandbox of an order with its output going to its log, in a
// process that only signals and the sandbox's own end stop. ready is called once the command
// runs.
func superviseDetached(o order, ready func(Info)) error {
	ctx := context.Background()
	store, err := vole.Open(ctx, vole.Options{Home: o.Home, ForeignHome: o.ForeignHome})
	if err != nil {
		return err
	}
	defer store.Close()
	m, err := Open(ctx, o.Home, store)
	if err != nil {
		return err
	}
	defer m.Close()
	log := &logWriter{top: m.sandboxesDir} // it has its name before the command can write
	defer log.Close()
	// A host that shuts down asks all processes to end.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	_, err = m.runWithErrors(ctx, o.Config, IO{Stdout: log, Stderr: log, Signals: signals}, true, func(i Info) {
		log.name = i.ID + "/" + logFile
		ready(i)
	})
	return err
}

// Logs copies to w the output of a detached sandbox: its newest 8 to 16 MiB, standard output
// and standard error as they came. With follow it goes on until the sandbox has ended.
// ErrUnsupported: the sandbox was not detached, so its output went to its caller.
func (m *Manager) Logs(ctx context.Context, ref string, w io.Writer, follow bool) error {
	return wrapError("logs", ref, m.copyLogs(ctx, ref, w, follow))
}

// copyLogs implements Logs. The status is read before the log, so that a sandbox that has ended
// by then has written all of its log.
func (m *Manager) copyLogs(ctx context.Context, ref string, w io.Writer, follow bool) error {
	i, err := m.rows.findSandbox(ctx, ref)
	if err != nil {
		return err
	}
	if !i.Detached {
		return driver.Errorf(vole.ErrUnsupported, "sandbox %s was not detached: its output went to the process that ran it", i.Name)
	}
	l := openLogReader(m.sandboxesDir, i.ID+"/"+logFile)
	defer l.Close()
	for {
		now, err := m.rows.findSandbox(ctx, i.ID)
		gone := errors.Is(err, vole.ErrNoSuch)
		if err != nil && !gone {
			return err
		}
		// In this order, so that nothing written before the end is missed.
		if err := l.copyLogTo(w); err != nil {
			return err
		}
		if !follow || gone || !now.Status.Live() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
		if err := m.reapDeadSandboxes(ctx); err != nil { // its supervisor may have died
			return err
		}
	}
}
