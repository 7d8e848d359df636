package main

import (
	"context"
	"math"
	"time"

	"github.com/spf13/cobra"
	"github.com/volehq/vole/sandbox"
)

func newStopCmd(a *app) *cobra.Command {
	var seconds float64
	cmd := &cobra.Command{
		Use:   "stop [-t SECONDS] SANDBOX...",
		Short: "Stop sandboxes",
		Long: `Ask sandboxes to end (SIGTERM), and kill those that have not ended after a time. The
command returns when they are stopped and their volumes are detached.`,
		Example: `  vole stop quiet-otter
  vole stop -t 0 $(vole ps -q)`,
		Args:              minArgs(1, "the name of at least one sandbox"),
		ValidArgsFunction: completeSandboxes(a, false, 0, func(sandbox.Info) bool { return true }),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !(seconds >= 0 && seconds <= math.MaxInt32) {
				return usageErrorf("--time %v: write seconds, from 0 to %d", seconds, math.MaxInt32)
			}
			wait := time.Duration(seconds * float64(time.Second))
			return a.forEachSandbox(cmd.Context(), args, func(m *sandbox.Manager, ctx context.Context, name string) error {
				return m.Stop(ctx, name, wait)
			})
		},
	}
	cmd.Flags().Float64VarP(&seconds, "time", "t", 10, "`seconds` to wait before killing")
	noFlagFiles(cmd, "time")
	return cmd
}
