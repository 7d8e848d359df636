package main

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
)

func newFsCmd(a *app) *cobra.Command {
	return newGroupCmd(&cobra.Command{
		Use:   "fs",
		Short: "Work with the files of a volume",
		Long: `Work with the files of a volume, on every kind of volume alike. A file is named
NAME:/path; the leading slash of the path may be left out. Links are followed within
the volume, never out of it.`,
		Example: `  vole fs ls pip-cache:/wheels -l
  echo hello | vole fs put - pip-cache:/greeting
  vole fs cat pip-cache:/greeting`,
	}, newFsLsCmd(a), newFsCatCmd(a), newFsPutCmd(a), newFsGetCmd(a), newFsMkdirCmd(a),
		newFsMvCmd(a), newFsRmCmd(a), newFsStatCmd(a), newFsTreeCmd(a))
}

// forEachFile runs do on each of the files that refs name, volume by volume in the order given, and
// ends with the first error; with keepOn, at the end of the volume that had one. The files of a
// volume are closed, and durable, before those of the next are opened.
func (a *app) forEachFile(ctx context.Context, refs []string, opts vole.FSOptions, keepOn bool, do func(f *vole.FS, p string) error) error {
	var names []string
	paths := map[string][]string{}
	for _, ref := range refs {
		name, p, err := parseFilePath(ref)
		if err != nil {
			return err
		}
		if paths[name] == nil {
			names = append(names, name)
		}
		paths[name] = append(paths[name], p)
	}
	for _, name := range names {
		f, err := a.openFS(ctx, name, opts)
		if err != nil {
			return err
		}
		var errs []error
		for _, p := range paths[name] {
			if err := do(f, p); err != nil {
				errs = append(errs, err)
				if !keepOn {
					break
				}
			}
		}
		if err := errors.Join(append(errs, a.closeOpened())...); err != nil {
			return err
		}
	}
	return nil
}

// readDirectoryPages calls fn for each entry that is left in d.
func readDirectoryPages(ctx context.Context, d *vole.Dir, fn func(e vole.Entry) error) error {
	for {
		list, err := d.Read(ctx, 512)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range list {
			if err := fn(e); err != nil {
				return err
			}
		}
	}
}
