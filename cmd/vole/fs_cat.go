package main

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

func newFsCatCmd(a *app) *cobra.Command {
	var off, n int64
	cmd := &cobra.Command{
		Use:   "cat NAME:/path...",
		Short: "Print files, or a range of them",
		Long:  `Print files to standard output. A range beyond the end of a file prints what there is.`,
		Example: `  vole fs cat pip-cache:/greeting
  vole fs cat logs:/app.log --offset 1048576 --length 4096`,
		Args:              minArgs(1, "NAME:/path"),
		ValidArgsFunction: completePaths(a, 0, false),
		RunE: func(cmd *cobra.Command, args []string) error {
			length := n
			if !cmd.Flags().Changed("length") {
				length = -1
			} else if n < 0 {
				return usageErrorf("--length %d: must not be negative", n)
			}
			if off < 0 {
				return usageErrorf("--offset %d: must not be negative", off)
			}
			ctx := cmd.Context()
			return a.forEachFile(ctx, args, vole.FSOptions{ReadOnly: true}, false, func(f *vole.FS, p string) error {
				return a.writeFileContent(ctx, f, p, off, length)
			})
		},
	}
	cmd.Flags().Int64Var(&off, "offset", 0, "first byte to print")
	cmd.Flags().Int64Var(&n, "length", 0, "most bytes to print (default to the end)")
	noFlagFiles(cmd, "offset", "length")
	return cmd
}

// writeFileContent prints n bytes of a file from offset off; n < 0: to its end.
func (a *app) writeFileContent(ctx context.Context, f *vole.FS, p string, off, n int64) error {
	r, err := f.NewReader(ctx, p, off, n)
	if err != nil {
		return withHint(err, vole.ErrIsDir, "'vole fs ls' lists a directory, 'vole cp' copies one")
	}
	return errors.Join(a.writeToEnd(r, p, off, n), r.Close())
}

// writeToEnd prints what r yields. A server may say that a file ends before its size: then it is
// asked for more, and when nothing more comes a part of the file is missing.
func (a *app) writeToEnd(r *vole.Reader, p string, off, n int64) error {
	for came := int64(0); ; {
		m, err := io.Copy(a.payload, r)
		if came += m; err != nil || n >= 0 && came >= n {
			return err
		}
		e, err := r.Stat()
		if err != nil || e.Size <= off+came {
			return err
		}
		if m == 0 {
			return &vole.Error{Op: "read", Path: p, Err: driver.Errorf(vole.ErrCorrupt, "the file has %d bytes, and only %d came", e.Size, off+came)}
		}
	}
}
