package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/transfer"
)

func newFsGetCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "get NAME:/path [FILE|-]",
		Short: "Read a file to the host or standard output",
		Long: `Read a file of a volume to a file of the host: FILE, or into the directory FILE, or
under its own name in the current directory; to standard output with "-". The file
appears whole or not at all, with the mode and time it has in the volume. A link that
FILE is, is followed; a device or fifo gets the bytes and stays.`,
		Example: `  vole fs get app:/report.html
  vole fs get app:/report.html /tmp/
  vole fs get app:/db.tar - | tar t`,
		Args:              rangeArgs(1, 2, "NAME:/path, and perhaps a file or -"),
		ValidArgsFunction: completeInTurn(completePaths(a, 0, false), completeFiles),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, p, err := parseFilePath(args[0])
			if err != nil {
				return err
			}
			f, err := a.openFS(cmd.Context(), name, vole.FSOptions{ReadOnly: true})
			if err != nil {
				return err
			}
			return a.getFile(cmd.Context(), f, p, argOr(args, 1, "."))
		},
	}
}

// getFile copies a file of a volume to a file of the host, or to standard output.
func (a *app) getFile(ctx context.Context, f *vole.FS, p, file string) (err error) {
	r, err := f.NewReader(ctx, p, 0, -1)
	if err != nil {
		return withHint(err, vole.ErrIsDir, "'vole cp' copies directories")
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	e, err := r.Stat()
	if err != nil {
		return err
	}
	if file == "-" {
		return a.getFileTo(a.payload, r, e.Size)
	}
	silent := a.isOutput(file)
	target, err := a.openHostTarget(location{arg: file, path: file})
	if err != nil {
		return err
	}
	at, err := chooseTargetPath(&copySource{name: path.Base(absPath(p)), mode: e.Mode}, target, location{arg: file, path: file})
	if err != nil {
		return err
	}
	// What it has grown by since is left out: a hostile server would never come to its end.
	// One that has shrunk is an error: a file that lacks its end would look whole.
	bar, stats := a.newProgress(), transfer.Stats{}
	defer func() { bar.finishBar(err == nil, stats) }()
	bar.setTotal(e.Size)
	whole := countingReader{&exactReader{r, e.Size}, bar.Add}
	opts := transfer.Options{Op: "cp", Warn: bar.warnf}
	node, err := target.openNode(ctx, at)
	if err != nil {
		return err
	}
	if node != nil {
		stats, err = transfer.WriteNode(ctx, node, whole, opts)
		err = errors.Join(err, node.Close())
	} else {
		stats, err = transfer.WriteFile(ctx, target.tree, at, whole, e.Mode, e.Mtime, opts)
	}
	if err != nil || !a.json || silent {
		return err
	}
	return a.printJSON(transferJSON{f.Volume().Name(), absPath(p), filepath.Join(target.dir, filepath.FromSlash(at)), stats.Bytes})
}

// getFileTo copies a file to standard output. Where that is a pipe or a terminal, no bar is
// drawn into what others show there.
func (a *app) getFileTo(w io.Writer, r io.Reader, size int64) error {
	regular := false
	if f, ok := w.(*os.File); ok {
		info, err := f.Stat()
		regular = err == nil && info.Mode().IsRegular()
	}
	if !regular {
		_, err := io.Copy(w, r)
		return err
	}
	bar := a.newProgress()
	bar.setTotal(size)
	n, err := io.Copy(w, countingReader{r, bar.Add})
	bar.finishBar(err == nil, transfer.Stats{Files: 1, Bytes: n})
	return err
}

// exactReader reads so many bytes, and fails where there are fewer.
type exactReader struct {
	r    io.Reader
	left int64
}

// Read reads no more than is left of the bytes, and turns an earlier end into an error.
func (r *exactReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.r.Read(p[:min(int64(len(p)), r.left)])
	if r.left -= int64(n); errors.Is(err, io.EOF) {
		err = nil
		if r.left > 0 {
			err = fmt.Errorf("fs get: the file became shorter while it was read, by %d bytes: %w", r.left, io.ErrUnexpectedEOF)
		}
	}
	return n, err
}
