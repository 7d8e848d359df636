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
	out := a.newEntryPrinter(ctx, f, opts.long)
	if !e.IsDir() {
		if e, err = f.Lstat(ctx, p); err != nil {
			return err
		}
		if err := out.printEntry(p, baseName(p), e); err != nil {
			return err
		}
		return out.close()
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
		return out.printEntry(joinPath(strings.TrimSuffix(p, "/"), e.Name), e.Name, e)
	})
	if err != nil {
		return err
	}
	return out.close()
}

// entryPrinter prints a stream of files: names, long lines or a JSON array.
type entryPrinter struct {
	a   *app
	ctx context.Context // of the one listing this prints
	f   *vole.FS
	arr *jsonArray
	tab *table
}

// newEntryPrinter prints files of f in the form that the flags ask for.
func (a *app) newEntryPrinter(ctx context.Context, f *vole.FS, long bool) *entryPrinter {
	p := &entryPrinter{a: a, ctx: ctx, f: f}
	switch {
	case a.json:
		p.arr = a.newJSONArray()
	case long && !a.quiet:
		p.tab = a.newTable()
	}
	return p
}

// printEntry prints the file at path under the given name.
func (p *entryPrinter) printEntry(path, name string, e vole.Entry) error {
	switch {
	case p.arr != nil:
		j, err := newEntryJSON(p.ctx, p.f, path, e)
		if err != nil {
			return err
		}
		return p.arr.add(j)
	case p.tab == nil:
		return p.a.printf("%s\n", p.a.displayFileName(name))
	}
	name, err := p.a.nameAndTarget(p.ctx, p.f, path, name, e)
	if err != nil {
		return err
	}
	id := func(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
	return p.tab.addRow(modeString(e.Mode), strconv.FormatUint(e.Nlink, 10), id(e.UID), id(e.GID),
		p.a.formatSize(vole.Size(e.Size)), p.a.formatTime(e.Mtime), name)
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

// close ends the output.
func (p *entryPrinter) close() error {
	switch {
	case p.arr != nil:
		return p.arr.close()
	case p.tab != nil:
		return p.tab.close()
	}
	return nil
}
