package main

import (
	"context"
	"io/fs"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
)

// listOptions says how fs ls prints.
type listOptions struct {
	long, all, unsorted bool
}

func newFsLsCmd(a *app) *cobra.Command {
	var opts listOptions
	cmd := &cobra.Command{
		Use:   "ls NAME[:/path]",
		Short: "List a directory",
		Long: `List a directory of a volume, or one file. Names that begin with a dot are left out
unless -a is given.`,
		Example: `  vole fs ls pip-cache
  vole fs ls -la pip-cache:/wheels
  vole fs ls -U huge:/            # unsorted: a stream, in bounded memory`,
		Args:              exactArgs(1, "NAME or NAME:/path"),
		ValidArgsFunction: completePaths(a, 1, false),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, p, err := parseVolumePath(args[0])
			if err != nil {
				return err
			}
			f, err := a.openFS(cmd.Context(), name, vole.FSOptions{ReadOnly: true})
			if err != nil {
				return err
			}
			return a.listDirectory(cmd.Context(), f, p, opts)
		},
	}
	a.addBytesFlag(cmd)
	fl := cmd.Flags()
	fl.BoolVarP(&opts.long, "long", "l", false, "show mode, owner, size and time")
	fl.BoolVarP(&opts.all, "all", "a", false, "names that begin with a dot, too")
	fl.BoolVarP(&opts.unsorted, "unsorted", "U", false, "do not sort")
	return cmd
}

// listDirectory prints what is in a directory, or the file at p when it is none.
func (a *app) listDirectory(ctx context.Context, f *vole.FS, p string, opts listOptions) error {
	e, err := f.Stat(ctx, p)
	if err != nil {
		return err
	}
	out := a.newEntryListing(opts.long)
	if !e.IsDir() {
		if e, err = f.Lstat(ctx, p); err != nil {
			return err
		}
		s, err := a.describeEntry(ctx, f, p, baseName(p), e, opts.long)
		if err != nil {
			return err
		}
		return out.printAll([]shownEntry{s})
	}
	d, err := f.OpenDir(ctx, p, vole.DirOptions{Sorted: !opts.unsorted, NamesOnly: !opts.long && !a.json})
	if err != nil {
		return err
	}
	defer d.Close()
	err = readDirectoryPages(ctx, d, func(e vole.Entry) error {
		if !opts.all && strings.HasPrefix(e.Name, ".") {
			return nil
		}
		s, err := a.describeEntry(ctx, f, joinPath(strings.TrimSuffix(p, "/"), e.Name), e.Name, e, opts.long)
		if err != nil {
			return err
		}
		return out.printRecord(s)
	})
	if err != nil {
		return err
	}
	return out.close()
}

// shownEntry is a file as fs ls prints it. A listing takes of it what its form needs, and
// describeEntry fills in no more, since a link's target is a request of its own.
type shownEntry struct {
	entryJSON // for --json
	entry     vole.Entry
	shown     string // its name, and in long lines the target of a link
}

// newEntryListing prints files: names, long lines or a JSON array.
func (a *app) newEntryListing(long bool) *listing[shownEntry] {
	var t *table
	if long {
		t = a.newTable()
	}
	return newListing(a, t, func(s shownEntry) string { return s.shown }, func(s shownEntry) []string {
		id := func(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
		e := s.entry
		return []string{modeString(e.Mode), strconv.FormatUint(e.Nlink, 10), id(e.UID), id(e.GID),
			a.formatSize(vole.Size(e.Size)), a.formatTime(e.Mtime), s.shown}
	})
}

// describeEntry describes the file at path, which is shown under the given name.
func (a *app) describeEntry(ctx context.Context, f *vole.FS, path, name string, e vole.Entry, long bool) (s shownEntry, err error) {
	s.entry = e
	switch {
	case a.json:
		s.entryJSON, err = newEntryJSON(ctx, f, path, e)
	case long && !a.quiet:
		s.shown, err = a.nameAndTarget(ctx, f, path, name, e)
	default:
		s.shown = a.displayFileName(name)
	}
	return s, err
}

// nameAndTarget is the name of a file as it is shown, and where the file is a link what it leads to.
func (a *app) nameAndTarget(ctx context.Context, f *vole.FS, path, name string, e vole.Entry) (string, error) {
	name = a.displayFileName(name)
	if e.Mode&fs.ModeSymlink == 0 {
		return name, nil
	}
	target, err := f.Readlink(ctx, path)
	return name + " -> " + a.displayFileName(target), err
}
