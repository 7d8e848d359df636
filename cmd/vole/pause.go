package main

import (
	"context"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/sandbox"
)

func newPauseCmd(a *app) *cobra.Command {
	return newSandboxStateCmd(a, sandbox.StatusRunning, (*sandbox.Manager).Pause, &cobra.Command{
		Use:     "pause SANDBOX...",
		Short:   "Freeze the processes of sandboxes",
		Example: "  vole pause quiet-otter",
	})
}

func newResumeCmd(a *app) *cobra.Command {
	return newSandboxStateCmd(a, sandbox.StatusPaused, (*sandbox.Manager).Resume, &cobra.Command{
		Use:     "resume SANDBOX...",
		Aliases: []string{"unpause"},
		Short:   "Let paused sandboxes go on",
		Example: "  vole resume quiet-otter",
	})
}

// newSandboxStateCmd makes of cmd a command that changes sandboxes, which are then in the state from.
func newSandboxStateCmd(a *app, from sandbox.Status, change func(*sandbox.Manager, context.Context, string) error, cmd *cobra.Command) *cobra.Command {
	cmd.Args = minArgs(1, "the name of at least one sandbox")
	cmd.ValidArgsFunction = completeSandboxes(a, false, 0, func(i sandbox.Info) bool { return i.Status == from })
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.forEachSandbox(cmd.Context(), args, change) }
	return cmd
}

// forEachSandbox does something with each of the named sandboxes and prints those where
// it worked.
func (a *app) forEachSandbox(ctx context.Context, names []string, do func(*sandbox.Manager, context.Context, string) error) error {
	m, err := a.openSandboxes(ctx)
	if err != nil {
		return err
	}
	return a.forEachName(ctx, names, func(name string) (bool, error) {
		err := do(m, ctx, name)
		return err == nil, withHint(err, vole.ErrNoSuch, "'vole ps -a' lists the sandboxes")
	})
}
