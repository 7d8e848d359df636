package main

import (
	"context"
	"errors"
	"io"
	"path"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
)

func newFsGetCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "get NAME:/path [FILE|-]",
		Short: "Read a file to the host or standard output",
		Long: `Read a file of a volume to a file of the host: FILE, or into the directory FILE, or
under its own name in the current directory; to standard output with "-". The file
appears whole or not at all, with the mode and time it has in the volume.`,
		Example: `  vole fs get app:/report.html
  vole fs get app:/report.html /tmp/
  vole fs get app:/db.tar - | tar t`,
		Args:              rangeArgs(1, 2, "NAME:/path, and perhaps a file or -"),
		ValidArgsFunction: completePutGet(a, false),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, p, err := fileRef(args[0])
			if err != nil {
				return err
			}
			file := "."
			if len(args) > 1 {
				file = args[1]
			}
			return a.readFS(cmd.Context(), name, func(f *vole.FS) error { return a.get(cmd.Context(), f, p, file) })
		},
	}
	return cmd
}

func (a *app) get(ctx context.Context, f *vole.FS, p, file string) (err error) {
	r, err := f.NewReader(ctx, p, 0, -1)
	if err != nil {
		return withHint(err, vole.ErrIsDir, "'vole cp' copies directories")
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if file == "-" {
		_, err := io.Copy(a.stdout, r)
		return err
	}
	e, err := r.Stat()
	if err != nil {
		return err
	}
	opts := metaOptions{warn: a.warnf}
	t, pl, err := hostPlace(ctx, location{arg: file, path: file}, opts)
	if err != nil {
		return err
	}
	o := &origin{name: path.Base(absPath(p)), item: item{mode: e.Mode, size: e.Size, mtime: e.Mtime}}
	at, err := choose(o, pl, location{arg: file, path: file})
	if err != nil {
		return errors.Join(err, t.abandon())
	}
	c := &copier{to: t, opts: opts}
	if err := c.file(ctx, at, &o.item, streamContent{r}); err != nil {
		return errors.Join(err, t.abandon())
	}
	if a.json {
		err = a.printJSON(transferJSON{f.Volume().Name(), absPath(p), t.display(at), c.stats.Bytes})
	}
	return errors.Join(err, t.close(ctx))
}

// streamContent is a stream as the content of a file without holes.
type streamContent struct{ *vole.Reader }

func (streamContent) nextData(context.Context) (off, n int64, err error) {
	return 0, 0, errors.ErrUnsupported // not asked for: the item is not sparse
}
