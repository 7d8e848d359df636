package main

import (
	"context"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/sandbox"
)

func newPauseCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "pause SANDBOX...",
		Short:   "Freeze the processes of sandboxes",
		Example: "  vole pause quiet-otter",
		Args:    minArgs(1, "the name of at least one sandbox"),
		ValidArgsFunction: completeSandboxes(a, false, 0, func(i sandbox.Info) bool {
			return i.Status == sandbox.StatusRunning
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.forEachSandbox(cmd.Context(), args, (*sandbox.Manager).Pause)
		},
	}
}

func newResumeCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "resume SANDBOX...",
		Aliases: []string{"unpause"},
		Short:   "Let paused sandboxes go on",
		Example: "  vole resume quiet-otter",
		Args:    minArgs(1, "the name of at least one sandbox"),
		ValidArgsFunction: completeSandboxes(a, false, 0, func(i sandbox.Info) bool {
			return i.Status == sandbox.StatusPaused
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.forEachSandbox(cmd.Context(), args, (*sandbox.Manager).Resume)
		},
	}
}

// forEachSandbox does something with each of the named sandboxes and prints those where
// it worked.
func (a *app) forEachSandbox(ctx context.Context, names []string, do func(*sandbox.Manager, context.Context, string) error) error {
	return a.withSandboxes(ctx, func(m *sandbox.Manager) error {
		return a.forEachName(ctx, names, func(name string) (bool, error) {
			err := do(m, ctx, name)
			return err == nil, withHint(err, vole.ErrNoSuch, "'vole ps -a' lists the sandboxes")
		})
	})
}
