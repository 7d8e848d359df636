package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/sandbox"
	"golang.org/x/term"
)

// runFlags are the flags of run. Most go into the configuration as they are; the others are parsed
// by sandboxConfig.
type runFlags struct {
	volumes, env        []string
	memory, pids        string
	network, entrypoint string
	pull                string
	hasPull             bool
	detach, interactive bool
	hasEntrypoint       bool
	config              sandbox.Config
}

func newRunCmd(a *app) *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARG...]",
		Short: "Run a command in a throw-away sandbox with volumes attached",
		Long: `Run a command in a sandbox: a container of crun, runc or gVisor's runsc, whichever of
these works here first. What it writes to its volumes stays, all else is thrown away.

Its root is a read-only view of the host's system directories (/usr, /etc, /opt and the
like, without what only some users of the host may read; no homes, no /var, no /run),
or with --rootfs a directory, or with --image a tar file (a plain one, of docker save,
or an OCI archive), an OCI layout, or an image of a registry, under a writable layer.
/tmp is private, there is no network.

An image that is no file is one of a registry: --image ubuntu is that of Docker Hub,
docker.io/library/ubuntu:latest. It is fetched once and kept in the home; --pull always
looks for a newer one. The logins of 'docker login' are used, and its credential helpers.

A volume is attached by -v NAME:/path[:option,...], with the options

  ro, rw                   for reading only, or (default) writing too
  noexec, nosuid           as for mount(8)
  nodev                    device nodes on it cannot be opened (default)
  dev                      they can: the host's devices, for volumes that you trust
  subpath=DIR              a directory of the volume instead of its root
  mode=ensure              make the volume if it is missing (default, but with ro)
  mode=existing, create    fail if it is missing (default with ro), or if it exists
  kind=dir, disk           the kind to make, or to require; a disk takes root
  quota=SIZE, size=SIZE    of a dir volume, of a disk volume
  stat-virt=relaxed, off   owners and modes: what the mount can do, or the host's

Limits without root take a control group that is delegated to the user, which
'systemd-run --user --scope -p Delegate=yes -- vole run ...' gives where systemd runs.

Input that is not a terminal is passed on; that of a terminal with -i. Signals are
passed on. The exit code is that of the command, 128+N when signal N ended it, 125
when vole failed, 126 when the command cannot be executed, 127 when it was not found.`,
		Example: `  vole run -v data:/data -- sh -c 'date > /data/when'
  vole run -v src:/src:ro -v cache:/root/.cache -w /src -- make test
  vole run -v db:/var/lib/db:kind=disk,size=20G -- ./load
  vole run --image ubuntu:24.04 -it -v src:/src -- bash
  vole run --image ghcr.io/org/tool:1.2 --pull always -- tool --version
  vole run --image debian.tar -it -- bash
  vole run -d --name web -v site:/srv/site:ro --network host -- python3 -m http.server`,
		DisableFlagsInUseLine: true,
		Args:                  cobra.ArbitraryArgs,
		ValidArgsFunction:     completeFiles,
		RunE: func(cmd *cobra.Command, args []string) error {
			f.config.Args = args
			f.hasEntrypoint, f.hasPull = cmd.Flags().Changed("entrypoint"), cmd.Flags().Changed("pull")
			// What closing the sandboxes fails with is vole's failure, too, and so 125.
			err := a.endCommand(cmd.Context(), a.runSandbox(cmd.Context(), f))
			return hintRunError(suggestImage(f.config, err))
		},
	}
	f.register(a, cmd)
	cmd.SetFlagErrorFunc(suggestRunFlag)
	return cmd
}

// register adds the flags to a command.
func (f *runFlags) register(a *app, cmd *cobra.Command) {
	s := cmd.Flags()
	s.SetInterspersed(false) // what follows the command is the command's
	c := &f.config
	s.StringArrayVarP(&f.volumes, "volume", "v", nil, "attach a volume: `NAME:/path[:options]`")
	s.StringVar(&c.Rootfs, "rootfs", "", "`directory` to use as root, under a writable layer")
	s.StringVar(&c.Image, "image", "", "`image` to use as root: a tar file, an OCI layout, or of a registry as ubuntu:24.04")
	s.StringVar(&f.pull, "pull", "missing", "when to ask the registry for the image: missing, always or never")
	s.StringVar(&f.entrypoint, "entrypoint", "", "`command` in place of the image's entrypoint; '' for none")
	_ = s.SetAnnotation("entrypoint", emptyMeans, []string{"no entrypoint"})
	s.StringVar(&c.Runtime, "runtime", "", "OCI runtime: crun, runc, runsc or the path of one (default the first that works)")
	s.StringVar(&c.Name, "name", "", "name of the sandbox (default a made-up one)")
	s.BoolVarP(&f.detach, "detach", "d", false, "run in the background and print the sandbox's name")
	s.BoolVarP(&f.interactive, "interactive", "i", false, "pass on the input of the terminal")
	s.BoolVarP(&c.Terminal, "tty", "t", false, "give the command a terminal")
	s.StringArrayVarP(&f.env, "env", "e", nil, "environment variable `K=V`, or K for vole's own")
	s.StringVarP(&c.Cwd, "workdir", "w", "", "working `directory` in the sandbox")
	s.StringVarP(&c.User, "user", "u", "", "`user[:group]` in the sandbox, names or numbers (default the image's, or root)")
	s.StringVar(&f.network, "network", "none", "none, or host for the host's network")
	s.StringVar(&f.memory, "memory", "", "most memory, as 512M, or none (default half of the host's where it can be limited)")
	s.StringVar(&f.pids, "pids", "", "most processes and threads, or none (default 1024)")
	s.Float64Var(&c.CPUs, "cpus", 0, "most processors used at a time, as 1.5 (default all)")
	s.BoolVar(&c.Remove, "rm", false, "forget the sandbox and its log when it ended")
	_ = cmd.RegisterFlagCompletionFunc("runtime", cobra.FixedCompletions(sandbox.Runtimes, cobra.ShellCompDirectiveDefault))
	completeFlagWith(cmd, "network", "none", "host")
	completeFlagWith(cmd, "pull", "missing", "always", "never")
	_ = cmd.MarkFlagDirname("rootfs")
	_ = cmd.RegisterFlagCompletionFunc("volume", completeMounts(a, f))
	noFlagFiles(cmd, "entrypoint", "name", "env", "workdir", "user", "memory", "pids", "cpus")
}

// hintRunError gives an error of run its exit code. All but those of the command are 125,
// since every other code may be the command's own.
func hintRunError(err error) error {
	if err == nil {
		return nil
	}
	if e := (*exitError)(nil); errors.As(err, &e) {
		return err
	}
	code := sandbox.ExitVole
	if e := (*sandbox.ExecError)(nil); errors.As(err, &e) {
		code = e.ExitCode
	}
	err = withHint(err, vole.ErrInUse, "'vole ps' lists the sandboxes, 'vole inspect' who has a volume attached")
	return &exitError{code, err}
}

// sandboxConfig turns the flags into the configuration.
func (f *runFlags) sandboxConfig() (sandbox.Config, error) {
	c := f.config
	c.Network = sandbox.Network(f.network)
	if f.hasPull {
		c.Pull = sandbox.PullPolicy(f.pull)
	}
	for _, s := range f.volumes {
		m, err := sandbox.ParseMount(s)
		if err != nil {
			return c, err
		}
		c.Mounts = append(c.Mounts, m)
	}
	for _, e := range f.env {
		if strings.Contains(e, "=") {
			c.Env = append(c.Env, e)
		} else if v, ok := os.LookupEnv(e); ok {
			c.Env = append(c.Env, e+"="+v)
		}
	}
	if f.hasEntrypoint {
		c.Entrypoint = []string{}
		if f.entrypoint != "" {
			c.Entrypoint = []string{f.entrypoint}
		}
	}
	switch f.memory {
	case "":
	case "none":
		c.Memory = -1
	default:
		n, err := vole.ParseSize(f.memory)
		if err != nil {
			return c, usageErrorf("--memory: %v; or write none", err)
		}
		if n <= 0 {
			return c, usageErrorf("--memory %s: write a size such as 512M, or none", f.memory)
		}
		c.Memory = n
	}
	switch f.pids {
	case "":
	case "none":
		c.Pids = -1
	default:
		n, err := strconv.ParseInt(f.pids, 10, 64)
		if err != nil || n <= 0 {
			return c, usageErrorf("--pids %q: write a positive number, or none", f.pids)
		}
		c.Pids = n
	}
	return c, nil
}

// openSandboxes opens the sandboxes of the home that openStore opens, or has been opened. endCommand
// closes them.
func (a *app) openSandboxes(ctx context.Context) (*sandbox.Manager, error) {
	if err := a.needsHome("sandboxes", "they belong to a home, and use its volumes by their place on this host"); err != nil {
		return nil, err
	}
	s, err := a.openStore(ctx)
	if err != nil {
		return nil, err
	}
	m, err := a.openManager(ctx, s)
	if err != nil {
		return nil, err
	}
	a.closeAtEnd(m)
	return m, nil
}

// listInHome lists what a method of the Manager of openSandboxes finds in the home, or removes from
// it; nothing where there is no home.
func listInHome[T any](ctx context.Context, a *app, list func(m *sandbox.Manager, ctx context.Context) ([]T, error)) ([]T, error) {
	m, err := a.openSandboxes(ctx)
	switch {
	case errors.Is(err, errNoHome):
		return []T{}, nil
	case err != nil:
		return nil, err
	}
	return list(m, ctx)
}

// openManager opens the sandboxes of the home that s is, which the caller closes.
func (a *app) openManager(ctx context.Context, s *vole.Store) (*sandbox.Manager, error) {
	home, err := a.homeDir()
	if err != nil {
		return nil, err
	}
	return sandbox.Open(ctx, home, s)
}

// runSandbox runs a sandbox to its end, or starts it in the background.
func (a *app) runSandbox(ctx context.Context, f runFlags) error {
	c, err := f.sandboxConfig()
	if err != nil {
		return err
	}
	c.PullProgress = &pullProgress{app: a}
	if f.detach && f.interactive {
		return usageErrorf("-d and -i exclude each other: a sandbox in the background has no input")
	}
	if err := a.needsHome("run", "sandboxes use volumes by their place on this host"); err != nil {
		return err
	}
	if _, err := a.openOrMakeStore(ctx, vole.Options{}); err != nil {
		return err
	}
	m, err := a.openSandboxes(ctx)
	if err != nil {
		return err
	}
	if !f.detach {
		return a.runForeground(ctx, m, c, f.interactive)
	}
	i, err := m.Start(ctx, c)
	switch {
	case err != nil:
		return err
	case a.json:
		return a.printJSON(i)
	}
	return a.printf("%s\n", i.Name)
}

// runForeground runs the sandbox to its end and passes on the exit code. It takes the context
// without its cancellation: the first signal is passed on to the command, whose end is awaited, and
// must not end vole before it.
func (a *app) runForeground(ctx context.Context, m *sandbox.Manager, c sandbox.Config, interactive bool) error {
	io := sandbox.IO{Stdout: a.payload, Stderr: a.payloadErr}
	if interactive || !isTerminal(a.stdin) {
		io.Stdin = a.stdin
	}
	// Signals are the command's affair; before it runs they end the attempt.
	sigs := make(chan os.Signal, 16)
	signal.Notify(sigs, withoutIgnoredSignals(forwardedSignals...)...)
	defer signal.Stop(sigs)
	io.Signals = sigs
	// When the reader of the output is gone, the command should find that out and vole should not
	// die of it. SIGPIPE is caught, not ignored: the command would inherit that it is ignored.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	restore, err := a.prepareTerminal(c.Terminal, &io)
	if err != nil {
		return err
	}
	res, err := m.Run(context.WithoutCancel(ctx), c, io)
	restore()
	if res.Cleanup != nil {
		a.warnf("%v", res.Cleanup)
	}
	switch {
	case err != nil && errors.Is(err, context.Canceled):
		return &exitError{128 + int(syscall.SIGINT), err}
	case err != nil:
		return err
	case res.ExitCode != 0:
		return &exitError{code: res.ExitCode}
	}
	return nil
}

// prepareTerminal prepares vole's own terminal for the command's: keys go through as they
// are, and changes of its size are passed on. The result undoes that, and ends the goroutine that
// passes sizes on; the first size is sent at once, since no signal announces it.
func (a *app) prepareTerminal(wanted bool, io *sandbox.IO) (restore func(), err error) {
	out, ok := a.payload.(*os.File)
	if !wanted || !ok || !isTerminal(out) {
		return func() {}, nil
	}
	resize := make(chan sandbox.WindowSize, 1)
	io.Resize = resize
	done := make(chan struct{})
	winch := make(chan os.Signal, 1)
	notifyResize(winch)
	go func() {
		for {
			if w, h, err := term.GetSize(int(out.Fd())); err == nil {
				select {
				case resize <- sandbox.WindowSize{Rows: uint16(h), Cols: uint16(w)}:
				case <-done:
					return
				}
			}
			select {
			case <-winch:
			case <-done:
				return
			}
		}
	}()
	undo := func() { signal.Stop(winch); close(done) }
	in, ok := io.Stdin.(*os.File)
	if !ok || !isTerminal(in) {
		return undo, nil
	}
	state, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		undo()
		return nil, err
	}
	return func() { undo(); _ = term.Restore(int(in.Fd()), state) }, nil
}
