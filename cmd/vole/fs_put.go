package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/transfer"
)

// transferJSON is a file that put or get moved.
type transferJSON struct {
	Volume string `json:"volume"`
	Path   string `json:"path"` // in the volume
	File   string `json:"file"` // on the host; "-": a stream
	Size   int64  `json:"size"`
}

func newFsPutCmd(a *app) *cobra.Command {
	var (
		mode      string
		noClobber bool
	)
	cmd := &cobra.Command{
		Use:   "put {FILE|-} NAME:/path",
		Short: "Write a file from the host or standard input",
		Long: `Write a file of a volume from a file of the host, or from standard input with "-".
Others see the old file or the new one, whole; missing parents are made. When the path
is a directory, or ends in a slash, the file keeps its name in it.`,
		Example: `  vole fs put config.toml app:/etc/config.toml
  tar c src | vole fs put - app:/src.tar
  vole fs put --mode 0600 key.pem app:/keys/`,
		Args:              exactArgs(2, "a file or -, and NAME:/path"),
		ValidArgsFunction: completeInTurn(completeFiles, completePaths(a, 0, false)),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, p, err := parseFilePath(args[1])
			if err != nil {
				return err
			}
			perm, err := parseMode(mode, 0)
			if err != nil {
				return err
			}
			opts := vole.WriteOptions{Mode: perm, Exclusive: noClobber}
			f, err := a.openFS(cmd.Context(), name, vole.FSOptions{})
			if err != nil {
				return err
			}
			return a.putFile(cmd.Context(), f, args[0], p, opts)
		},
	}
	cmd.Flags().StringVar(&mode, "mode", "", "permission bits, octal (default those of FILE, of the replaced file, or 0644)")
	cmd.Flags().BoolVarP(&noClobber, "no-clobber", "n", false, "fail if the target exists")
	noFlagFiles(cmd, "mode")
	return cmd
}

// putFile writes a file of the host, or standard input, to a file of a volume.
func (a *app) putFile(ctx context.Context, f *vole.FS, file, p string, opts vole.WriteOptions) error {
	r, size := io.Reader(nil), int64(0)
	if file == "-" {
		size = bytesLeft(a.stdin) // before the input reads ahead
		r = a.openInput(ctx, a.stdin)
	} else {
		h, err := openForReading(ctx, file)
		if err != nil {
			return err
		}
		defer h.Close()
		info, err := h.Stat()
		if err != nil {
			return err
		}
		if info.IsDir() {
			return &hinted{&os.PathError{Op: "put", Path: file, Err: vole.ErrIsDir}, "'vole cp' copies directories"}
		}
		if info.Mode().IsRegular() {
			opts.Size, size = info.Size(), info.Size()
		}
		if opts.Mode == 0 {
			opts.Mode = info.Mode().Perm()
		}
		if r = h; !info.Mode().IsRegular() {
			r = a.openInput(ctx, h)
		}
	}
	p, err := choosePutTarget(ctx, f, file, p)
	if err != nil {
		return err
	}
	bar := a.newProgress()
	bar.setTotal(size)
	n, err := f.WriteFrom(ctx, p, countingReader{r, bar.Add}, opts)
	bar.finishBar(err == nil, transfer.Stats{Files: 1, Bytes: n})
	if err != nil || !a.json {
		return err
	}
	return a.printJSON(transferJSON{f.Volume().Name(), absPath(p), file, n})
}

// choosePutTarget appends the file's own name to a path that is or must be a directory.
func choosePutTarget(ctx context.Context, f *vole.FS, file, p string) (string, error) {
	e, err := f.Stat(ctx, p)
	isDir := err == nil && e.IsDir()
	if !isDir && !asksForDir(p) {
		return p, nil
	}
	if file == "-" {
		return "", usageErrorf("put: %s:%s is a directory, and standard input has no name; name a file in it", f.Volume().Name(), driver.RootedPath(p))
	}
	if err == nil && !isDir {
		return "", &vole.Error{Op: "put", Volume: f.Volume().Name(), Path: p, Err: vole.ErrNotDir}
	}
	if err != nil && !errors.Is(err, vole.ErrNotExist) {
		return "", err
	}
	abs, err := filepath.Abs(file)
	return joinPath(absPath(p), filepath.Base(abs)), err
}
