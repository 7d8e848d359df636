package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
)

func newRmCmd(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "rm NAME...",
		Aliases: []string{"remove"},
		Short:   "Remove volumes and all they hold",
		Long: `Remove volumes and all they hold, and print their names. A volume that is attached
is not removed. One that fails does not keep the others from being removed.`,
		Example: `  vole rm pip-cache
  vole rm -f maybe-there also-maybe
  vole ls -q -l env=ci | xargs -r vole rm`,
		Args:              minArgs(1, "the name of at least one volume"),
		ValidArgsFunction: completeNames(a, 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			s, err := a.openStore(ctx)
			switch {
			case force && errors.Is(err, errNoHome):
				return a.forEachName(ctx, nil, nil) // all are missing
			case err != nil:
				return err
			}
			return a.forEachName(ctx, args, func(name string) (bool, error) { return a.removeVolume(ctx, s, name, force) })
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "ignore volumes that are missing")
	return cmd
}

// removeVolume removes a volume; done is false when force lets it be missing.
func (a *app) removeVolume(ctx context.Context, s *vole.Store, name string, force bool) (done bool, err error) {
	id := ""
	if v, err := s.Get(ctx, name); err == nil {
		id = v.ID()
	}
	err = s.Remove(ctx, name)
	if force && errors.Is(err, vole.ErrNotFound) {
		return false, nil
	}
	err = a.removeFiles(ctx, s, id, err)
	err = withHint(err, vole.ErrInUse, "'vole inspect %s' shows who has it attached", name)
	return err == nil, withHint(err, vole.ErrNotFound, "'vole ls' lists the volumes")
}

// removeFiles finishes a removal that failed because other users of a sandbox own files
// of the volume. It returns the error of that unless it can, and every other error.
func (a *app) removeFiles(ctx context.Context, s *vole.Store, id string, failed error) error {
	if id == "" || !errors.Is(failed, vole.ErrPermission) {
		return failed
	}
	m, err := a.openManager(ctx, s)
	if err != nil {
		return failed
	}
	left := m.RemoveFiles(ctx, id)
	err = m.Close()
	switch {
	case err != nil, errors.Is(left, vole.ErrInvalid):
		return failed // it was not about the files
	case left == nil:
		return nil
	}
	return withHint(failed, vole.ErrPermission,
		"the volume is gone, but not the files in it that others own; the next sandbox that may delete them does, which needs newuidmap")
}
