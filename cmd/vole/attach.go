package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/local"
)

// Exit codes for a program that did not start, as shells have them.
const (
	exitNotExecutable = 126
	exitNoProgram     = 127
	exitSignal        = 128 // plus the signal's number
)

func newAttachCmd(a *app) *cobra.Command {
	var opts vole.AttachOptions
	cmd := &cobra.Command{
		Use:   "attach NAME [--ro] [--holder NAME] -- COMMAND [ARG...]",
		Short: "Run a program with a volume attached",
		Long: `Run a program (a virtual machine monitor, a backup tool) with a volume attached for
exactly as long as it lives. The path of the volume's files, or of a disk volume's
image, is in the environment variable VOLE_PATH and takes the place of every {} in the
arguments. Standard streams, signals and the exit code are passed through.

While it runs, the volume cannot be removed. When vole is killed, the program is
killed too (on Linux), and the attachment ends. A disk volume has one writer or many
readers; what the program starts inherits the hold on the image, so that it lasts until
the last of them ends.

--ro attaches for reading only, and has the kernel see to it (Linux only): the program
runs in a mount namespace of its own, in which the path is read-only and device nodes
cannot be opened. A program that hands the path to a daemon (docker, virsh) does not bind
that daemon by this. So for root the path is that of a read-only mount which daemons see,
/run/vole/ro/ID, until the program ends; otherwise a line says that only the program
and what it starts itself are bound.

What goes on using the volume when the program has ended, because it was started in the
background or by a daemon, is named: to that the attachment does not extend, though
processes that inherited the hold on a disk volume's image keep it.`,
		Example: `  vole attach pip-cache -- du -sh {}
  vole attach --ro pip-cache -- restic backup {}
  vole attach vm-7 -- qemu-system-x86_64 -drive file={},format=raw,if=virtio
  vole attach work --holder vm-7 -- virtiofsd --shared-dir {} --socket-path vm-7.sock`,
		DisableFlagsInUseLine: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if dash := cmd.ArgsLenAtDash(); len(args) < 2 || dash >= 0 && dash != 1 {
				return missingArgsError(cmd, "a volume's name, and after -- a command")
			}
			return nil
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return completeFiles(cmd, args, prefix)
			}
			return completeNames(a, 1)(cmd, args, prefix)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.attachAndRun(cmd.Context(), args[0], args[1:], opts)
		},
	}
	cmd.Flags().BoolVar(&opts.ReadOnly, "ro", false, "for reading only")
	cmd.Flags().StringVar(&opts.Holder, "holder", "", "name of who uses it, for others to see (default the command)")
	noFlagFiles(cmd, "holder")
	return cmd
}

// attachAndRun attaches a volume, runs a program to its end, and detaches. The attachment, and not
// the program, is what keeps others from the volume; so it ends last, also when the program cannot
// be started, and its end is not given up when ctx is done.
func (a *app) attachAndRun(ctx context.Context, name string, argv []string, opts vole.AttachOptions) (err error) {
	if err := a.needsHome("attach", "a program uses a volume by its place on this host"); err != nil {
		return err
	}
	// From here on signals are the program's affair, and only end the wait before it.
	sigs := make(chan os.Signal, 16)
	signal.Notify(sigs, withoutIgnoredSignals(forwardedSignals...)...)
	defer signal.Stop(sigs)

	opts.HostPath = true
	if opts.Holder == "" {
		opts.Holder = defaultHolder(argv[0])
	}
	v, err := a.openVolume(ctx, name)
	if err != nil {
		return err
	}
	var att *vole.Attachment
	if opts.ReadOnly && v.Info().Kind == vole.KindDisk {
		// A program that may not write cannot replay a log that a crash left.
		att, err = attachCleanDisk(ctx, v, opts)
	} else {
		att, err = v.Attach(ctx, opts)
	}
	if err != nil {
		return withHint(err, vole.ErrInUse, "'vole inspect %s' shows who has it attached", name)
	}
	// The program's own exit code comes first among the errors.
	defer func() { err = errors.Join(err, att.Detach(context.WithoutCancel(ctx))) }()
	if att.Path() == "" {
		return &vole.Error{Op: "attach", Volume: name, Err: driver.Errorf(vole.ErrUnsupported,
			"these volumes have no place on this host; 'vole fs' and 'vole cp' reach their files")}
	}
	at, undo := a.bindReadOnlyView(att)
	err = a.runAttached(ctx, att, at, argv, sigs)
	a.warnStillHeld(context.WithoutCancel(ctx), v, att)
	return errors.Join(err, undo())
}

// bindReadOnlyView returns by which path the program is to use an attached volume. For reading
// only that is a read-only mount that daemons see too, where one can be made: a mere
// namespace of the program binds no daemon that gets the path from it.
func (a *app) bindReadOnlyView(att *vole.Attachment) (at string, undo func() error) {
	none := func() error { return nil }
	if !att.Info().ReadOnly {
		return att.Path(), none
	}
	at, undo, err := local.BindReadOnly(att.Path(), att.Info().ID)
	if err != nil {
		if !a.quiet {
			a.notef("attach --ro: only the program and what it starts itself are bound; a daemon that gets the path from it (docker, virsh) can write")
		}
		return att.Path(), none
	}
	return at, undo
}

// warnStillHeld names the processes that go on using a volume after the program has ended,
// but for those of other attachments.
func (a *app) warnStillHeld(ctx context.Context, v *vole.Volume, att *vole.Attachment) {
	for _, p := range processesUsing(att.Info().VolumeID, att.Info().ID) {
		list, err := v.Attachments(ctx)
		attached := err == nil && slices.ContainsFunc(list, func(at vole.AttachmentInfo) bool {
			return at.ID != att.Info().ID && p.descendsFrom(at.PID)
		})
		if !attached {
			a.warnf("attach: the program has ended, and volume %s is still used: process %d (%s) %s", v.Name(), p.pid, p.name, p.how)
		}
	}
}

// volumeUser is a process that uses a volume by its path on the host.
type volumeUser struct {
	pid       int
	name, how string
	ancestors []int // from its parent on
}

// descendsFrom reports whether it is that process, or was started by it.
func (p volumeUser) descendsFrom(pid int) bool {
	return p.pid == pid || slices.Contains(p.ancestors, pid)
}

// defaultHolder names the program that will hold the volume.
func defaultHolder(command string) string {
	h := fmt.Sprintf("%s[%d]", filepath.Base(command), os.Getpid())
	if driver.ValidateHolder(h) != nil {
		return "" // the SDK's own default
	}
	return h
}

// runAttached runs the program to its end. at is by which path it uses the volume: that takes the
// place of {} in the arguments, and is in VOLE_PATH.
func (a *app) runAttached(ctx context.Context, att *vole.Attachment, at string, argv []string, sigs <-chan os.Signal) error {
	args := make([]string, len(argv))
	for i, s := range argv {
		args[i] = strings.ReplaceAll(s, "{}", at)
	}
	program, err := exec.LookPath(args[0])
	if err != nil {
		return programStartError(args[0], err)
	}
	// The kernel ends the program when the thread that started it ends, so this
	// goroutine keeps its thread until then.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := &exec.Cmd{
		Path: program, Args: args, Env: append(os.Environ(), "VOLE_PATH="+at),
		Stdin: a.stdin, Stdout: a.payload, Stderr: a.payloadErr, SysProcAttr: killedWithParent(),
	}
	if hold := att.Hold(); hold != nil {
		// So the image stays held until the last process that has it open ends,
		// whatever becomes of this one.
		cmd.ExtraFiles = []*os.File{hold}
	}
	if att.Info().ReadOnly {
		if err := makeReadOnly(cmd, att.Path()); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		if att.Info().ReadOnly {
			err = readOnlyMountError(err)
		}
		return programStartError(args[0], err)
	}
	done := make(chan struct{})
	defer close(done)
	go forwardSignals(cmd.Process, sigs, done)
	return exitErrorOfProgram(cmd.Wait())
}

// programStartError gives a program that did not start the exit codes of shells.
func programStartError(program string, err error) error {
	code := exitNotExecutable
	switch {
	case errors.Is(err, vole.ErrUnsupported):
		return err
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		code = exitNoProgram
	}
	var pe *fs.PathError
	var ee *exec.Error
	if errors.As(err, &ee) {
		err = ee.Err
	}
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return &exitError{code, fmt.Errorf("attach: %s: %w", program, err)}
}

// exitErrorOfProgram turns how a program ended into vole's exit code.
func exitErrorOfProgram(err error) error {
	ee := (*exec.ExitError)(nil)
	if !errors.As(err, &ee) {
		return err
	}
	if ws, ok := ee.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return &exitError{code: exitSignal + int(ws.Signal())}
	}
	return &exitError{code: ee.ExitCode()}
}

// forwardSignals passes signals on until done is closed.
func forwardSignals(p *os.Process, sigs <-chan os.Signal, done <-chan struct{}) {
	for {
		select {
		case s := <-sigs:
			// The program is in vole's process group: what is typed on the terminal
			// reaches it without help, and must not come twice.
			if (s == syscall.SIGINT || s == syscall.SIGQUIT) && inForeground() {
				continue
			}
			p.Signal(s)
		case <-done:
			return
		}
	}
}
