package main

import (
	"errors"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
)

// removedJSON is a volume that rm removed.
type removedJSON struct {
	Name string `json:"name"` // as it was given
}

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
			return a.withStore(cmd.Context(), func(s *vole.Store) error {
				return a.remove(cmd, s, args, force)
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "ignore volumes that are missing")
	return cmd
}

func (a *app) remove(cmd *cobra.Command, s *vole.Store, names []string, force bool) error {
	ctx := cmd.Context()
	var errs []error
	removed := []removedJSON{}
	for _, name := range names {
		if ctx.Err() != nil {
			errs = append(errs, ctx.Err())
			break
		}
		err := s.Remove(ctx, name)
		switch {
		case force && errors.Is(err, vole.ErrNotFound):
		case err != nil:
			err = withHint(err, vole.ErrInUse, "'vole inspect %s' shows who has it attached", name)
			errs = append(errs, withHint(err, vole.ErrNotFound, "'vole ls' lists the volumes"))
		case a.json:
			removed = append(removed, removedJSON{name})
		case !a.quiet:
			errs = append(errs, a.printf("%s\n", name))
		}
	}
	if a.json {
		errs = append(errs, a.printJSON(removed))
	}
	return errors.Join(errs...)
}
