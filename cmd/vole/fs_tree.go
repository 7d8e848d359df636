package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// treePrinter prints a directory and what is beneath it, depth first. Each directory on the way
// down is held in memory, because a branch looks different before its last entry.
type treePrinter struct {
	a     *app
	f     *vole.FS
	all   bool
	depth int        // levels to print; 0: all
	arr   *jsonArray // set under --json
	held  int64      // bytes of the directories that are being printed
}

func newFsTreeCmd(a *app) *cobra.Command {
	t := &treePrinter{a: a}
	cmd := &cobra.Command{
		Use:   "tree NAME[:/path]",
		Short: "Show a directory and all beneath it",
		Long: `Show a directory and all beneath it. Links are shown, not followed; names that begin
with a dot are left out unless -a is given. Under --json the entries are one flat array.`,
		Example: `  vole fs tree pip-cache
  vole fs tree -a --depth 2 pip-cache:/wheels`,
		Args:              exactArgs(1, "NAME or NAME:/path"),
		ValidArgsFunction: completePaths(a, 1, false),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, p, err := parseVolumePath(args[0])
			if err != nil {
				return err
			}
			if t.depth < 0 {
				return usageErrorf("--depth %d: must not be negative", t.depth)
			}
			if t.f, err = a.openFS(cmd.Context(), name, vole.FSOptions{ReadOnly: true}); err != nil {
				return err
			}
			return t.printTree(cmd.Context(), name, p)
		},
	}
	cmd.Flags().BoolVarP(&t.all, "all", "a", false, "names that begin with a dot, too")
	cmd.Flags().IntVar(&t.depth, "depth", 0, "levels to show (default all)")
	noFlagFiles(cmd, "depth")
	return cmd
}

// printTree prints the directory p of a volume and all beneath it.
func (t *treePrinter) printTree(ctx context.Context, name, p string) error {
	p, err := cleanPath("tree", name, p)
	if err != nil {
		return err
	}
	if d, err := t.f.OpenDir(ctx, p, vole.DirOptions{Sorted: true}); err != nil { // before anything is printed
		return err
	} else if err := d.Close(); err != nil {
		return err
	}
	if t.a.json {
		t.arr = t.a.newJSONArray()
	} else if err := t.a.printf("%s\n", t.a.displayFileName(name+":"+absPath(p))); err != nil {
		return err
	}
	if err := t.printDirectory(ctx, p, "", 1); err != nil {
		return err
	}
	if t.arr != nil {
		return t.arr.close()
	}
	return nil
}

// printDirectory prints what is beneath p, which is level levels deep. It calls itself.
func (t *treePrinter) printDirectory(ctx context.Context, p, indent string, level int) error {
	held := t.held
	defer func() { t.held = held }()
	list, err := t.readDirectory(ctx, p)
	if err != nil {
		return err
	}
	for i, e := range list {
		branch, below := "├── ", "│   "
		if i == len(list)-1 {
			branch, below = "└── ", "    "
		}
		child := joinPath(p, e.Name)
		if err := t.printEntry(ctx, child, indent+branch, e); err != nil {
			return err
		}
		if e.IsDir() && (t.depth == 0 || level < t.depth) {
			if err := t.printDirectory(ctx, child, indent+below, level+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// entrySize is how many bytes an entry takes beside its name, about.
const entrySize = 256

// maxTree is how many bytes of a tree are held at once: a server may list directories without end.
var maxTree int64 = 512 << 20

// readDirectory lists a directory, and counts what it takes.
func (t *treePrinter) readDirectory(ctx context.Context, p string) (list []vole.Entry, err error) {
	d, err := t.f.OpenDir(ctx, p, vole.DirOptions{Sorted: true})
	if err != nil {
		return nil, err
	}
	defer d.Close()
	err = readDirectoryPages(ctx, d, func(e vole.Entry) error {
		if !t.all && strings.HasPrefix(e.Name, ".") {
			return nil
		}
		if t.held += entrySize + int64(len(e.Name)); t.held > maxTree {
			ref := t.f.Volume().Name() + ":" + absPath(p)
			return &hinted{driver.Errorf(vole.ErrUnsupported, "tree: %s has more entries than are held at once", ref), "'vole fs ls -U' prints a directory of any size"}
		}
		list = append(list, e)
		return nil
	})
	return list, err
}

// printEntry prints the file at p: a line that begins with indent, or JSON.
func (t *treePrinter) printEntry(ctx context.Context, p, indent string, e vole.Entry) error {
	if t.arr != nil {
		j, err := newEntryJSON(ctx, t.f, p, e)
		if err != nil {
			return err
		}
		return t.arr.add(j)
	}
	name, err := t.a.nameAndTarget(ctx, t.f, p, e.Name, e)
	if err != nil {
		return err
	}
	if e.IsDir() {
		name += "/"
	}
	return t.a.printf("%s%s\n", indent, name)
}
