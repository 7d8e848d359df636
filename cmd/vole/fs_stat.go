package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
)

func newFsStatCmd(a *app) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "stat NAME[:/path]...",
		Short: "Describe files",
		Long:  `Describe files in full. A link is described itself unless -L is given.`,
		Example: `  vole fs stat pip-cache:/greeting
  vole fs stat --json pip-cache:/greeting | jq '.[0].size'`,
		Args:              minArgs(1, "NAME:/path"),
		ValidArgsFunction: completePaths(a, 0, false),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.statFiles(cmd.Context(), args, follow)
		},
	}
	cmd.Flags().BoolVarP(&follow, "dereference", "L", false, "follow a link")
	return cmd
}

// statFiles describes each file that args name. One that fails keeps no other from it.
func (a *app) statFiles(ctx context.Context, args []string, follow bool) error {
	found := []entryJSON{}
	var errs []error
	for i, arg := range args {
		name, p, err := parseVolumePath(arg)
		if err != nil {
			return err
		}
		j, e, err := a.statFile(ctx, name, p, follow)
		if err == nil {
			found = append(found, j)
		}
		if err == nil && !a.json {
			err = a.printEntry(i, name, j, e)
		}
		errs = append(errs, err)
	}
	if a.json {
		errs = append(errs, a.printJSON(found))
	}
	return errors.Join(errs...)
}

// statFile describes one file of a volume.
func (a *app) statFile(ctx context.Context, volume, p string, follow bool) (j entryJSON, e vole.Entry, err error) {
	f, err := a.openFS(ctx, volume, vole.FSOptions{ReadOnly: true})
	if err != nil {
		return j, e, err
	}
	defer func() { err = errors.Join(err, a.closeOpened()) }()
	stat := f.Lstat
	if follow {
		stat = f.Stat
	}
	if e, err = stat(ctx, p); err == nil {
		j, err = newEntryJSON(ctx, f, p, e)
	}
	return j, e, err
}

// printEntry prints all that is known of a file. i is its place among those that are printed.
func (a *app) printEntry(i int, volume string, j entryJSON, e vole.Entry) error {
	if a.quiet {
		return a.printf("%s\n", a.displayFileName(volume+":"+j.Path))
	}
	if i > 0 {
		a.printf("\n")
	}
	t := a.newTable()
	t.addRow("Path:", a.displayFileName(volume+":"+j.Path))
	kind := j.Type
	if j.Target != "" {
		kind += " to " + a.displayFileName(j.Target)
	}
	t.addRow("Type:", kind)
	t.addRow("Size:", fmt.Sprintf("%d (%d allocated)", j.Size, j.Allocated))
	t.addRow("Mode:", fmt.Sprintf("%s (%s)", j.Mode, modeString(e.Mode)))
	t.addRow("Owner:", fmt.Sprintf("%d:%d", j.UID, j.GID))
	t.addRow("Links:", fmt.Sprint(j.Nlink))
	t.addRow("Inode:", fmt.Sprint(j.Inode))
	t.addRow("Modified:", e.Mtime.UTC().Format(time.RFC3339Nano))
	t.addRow("Accessed:", e.Atime.UTC().Format(time.RFC3339Nano))
	t.addRow("Changed:", e.Ctime.UTC().Format(time.RFC3339Nano))
	return t.close()
}
