package main

import (
	"context"
	"errors"

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
			return a.eachSandbox(cmd.Context(), args, (*sandbox.Manager).Pause)
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
			return a.eachSandbox(cmd.Context(), args, (*sandbox.Manager).Resume)
		},
	}
}

// sandboxDone is a sandbox with which a command has done what it does.
type sandboxDone struct {
	Name string `json:"name"` // as it was given
}

// eachSandbox does something with each of the named sandboxes and prints those where
// it worked. One that fails does not keep the others from it.
func (a *app) eachSandbox(ctx context.Context, names []string, do func(*sandbox.Manager, context.Context, string) error) error {
	return a.withSandboxes(ctx, func(m *sandbox.Manager) error {
		var errs []error
		done := []sandboxDone{}
		for _, name := range names {
			err := do(m, ctx, name)
			switch {
			case err != nil:
				errs = append(errs, withHint(err, vole.ErrNotFound, "'vole ps -a' lists the sandboxes"))
			case a.json:
				done = append(done, sandboxDone{name})
			case !a.quiet:
				errs = append(errs, a.printf("%s\n", name))
			}
		}
		if a.json {
			errs = append(errs, a.printJSON(done))
		}
		return errors.Join(errs...)
	})
}
