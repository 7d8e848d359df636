package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/cloud"
	"github.com/volehq/vole/internal/api"
)

func newWatchCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "watch [VOLUME]",
		Short: "Print changes of a server's volumes as they happen",
		Long: `Print changes of the volumes behind a server, or of one of them, as they happen: the time,
the kind of change and the volume. "changed" means that files changed; several changes in
quick succession may be printed as one. Changes made while the command is not running are
not printed, so look at the volumes after it has started. It ends when it is interrupted
(exit code 130), after --timeout (exit code 10), or when the server ends.

Under --json each change is an object on a line of its own.`,
		Example: `  vole watch
  vole watch site --json | while read -r change; do ./publish; done`,
		Args:              rangeArgs(0, 1, ""),
		ValidArgsFunction: completeNames(a, 1),
		RunE: a.withServer("watch", func(ctx context.Context, server *cloud.Backend, args []string) error {
			return a.watchVolumes(ctx, server, argOr(args, 0, ""))
		}),
	}
}

// watchVolumes prints changes of all volumes, or of one, until the stream of them ends.
func (a *app) watchVolumes(ctx context.Context, server *cloud.Backend, volume string) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetEscapeHTML(false)
	err := server.Watch(ctx, volume, func(e api.Event) error {
		name := cmp.Or(e.Volume, e.VolumeID)
		switch {
		case a.json:
			return enc.Encode(e)
		case a.quiet:
			return a.printf("%s\n", name)
		}
		return a.printf("%s %s %s\n", e.At.UTC().Format(time.RFC3339), e.Type, name)
	})
	if ctx.Err() != nil && a.interrupted() {
		return &exitError{code: driver.ExitInterrupted} // the usual end, of which there is nothing to say
	}
	if errors.Is(err, vole.ErrNotFound) && volume != "" {
		return &vole.Error{Op: "watch", Volume: volume, Err: err}
	}
	if err == nil {
		err = driver.Errorf(driver.ErrUnavailable, "the server ended the stream; what changes from now on is not seen")
	}
	return err
}
