package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/flock"
	"github.com/volehq/vole/internal/loop"
	"github.com/volehq/vole/transfer"
)

func newDiskCmd(a *app) *cobra.Command {
	return newGroupCmd(&cobra.Command{
		Use:   "disk",
		Short: "Work with images of ext4, and bring them into volumes and out",
		Long: `Work with files that hold an ext4 file system: images that other programs made, or that
were exported. No mount is needed, nor root. Disk volumes of Vole need none of it:
'vole doctor' checks them, 'vole set' makes them larger, 'vole create --from' fills them.`,
		Example: `  vole disk import rootfs.ext4 rootfs
  vole disk export rootfs rootfs.ext4.zst --zstd
  vole disk check rootfs.ext4`,
	}, newDiskCheckCmd(a), newDiskDumpCmd(a), newDiskGrowCmd(a), newDiskImportCmd(a), newDiskExportCmd(a))
}

// openImage opens an image of the host and locks it: shared for reading, exclusively for writing.
// endCommand closes it.
func (a *app) openImage(op, name string, write bool) (*os.File, error) {
	flag := os.O_RDONLY
	if write {
		flag = os.O_RDWR
	}
	f, err := openFileOrDevice(name, flag|syscall.O_NONBLOCK) // not to wait for a fifo
	if err != nil {
		return nil, wrapImageError(op, name, err)
	}
	a.closeAtEnd(f)
	if err := claimImage(f, write); err != nil {
		return nil, wrapImageError(op, name, err)
	}
	return f, nil
}

// claimImage locks an open image, for as long as it is open.
func claimImage(f *os.File, write bool) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.IsDir() {
		return vole.ErrIsDir
	}
	if !st.Mode().IsRegular() && !isBlockDevice(st.Mode()) {
		return driver.Errorf(vole.ErrInvalid, "it is neither a file nor a block device; save what it yields to a file")
	}
	held, err := flock.TryFile(f, write)
	if err != nil {
		return err
	}
	if !held {
		return driver.Errorf(vole.ErrInUse, "in use by another process; stop it first")
	}
	for _, d := range loop.Of(f) {
		if write || !d.ReadOnly {
			return driver.Errorf(vole.ErrInUse, "in use by the loop device %s; unmount it first", d.Name)
		}
	}
	return nil
}

// wrapImageError gives errors about an image Vole's sentinels, and its path.
func wrapImageError(op, name string, err error) error {
	var errno syscall.Errno
	var advice *hinted
	switch {
	case err == nil:
		return nil
	case errors.As(err, &advice):
		return &hinted{&vole.Error{Op: "disk " + op, Path: name, Err: advice.error}, advice.hint}
	case errors.Is(err, ext4.ErrCorrupt):
		err = driver.Errorf(vole.ErrCorrupt, "%v", err)
	case errors.Is(err, ext4.ErrUnsupported):
		err = driver.Errorf(vole.ErrUnsupported, "%v", err)
	case errors.As(err, new(*os.PathError)), errors.As(err, new(*vole.Error)):
		return transfer.HostError("disk "+op, name, err)
	case errors.As(err, &errno):
		err = driver.Errorf(driver.FromErrno(errno), "%v", err)
	}
	return &vole.Error{Op: "disk " + op, Path: name, Err: err}
}

// sizeJSON is an image that a command made or changed.
type sizeJSON struct {
	Volume string    `json:"volume,omitempty"` // that it is of
	File   string    `json:"file"`             // on the host; "-": a stream
	Size   vole.Size `json:"size"`
}

// printImage prints the file of an image that a command made or changed.
func (a *app) printImage(j sizeJSON) error {
	return a.printResult(j, "%s\n", j.File)
}

// unfinishedGrow is what is said of an image of which a growth was cut off. It is no damage.
const unfinishedGrow = "unfinished grow; the next use completes it"

// maxProblems is how many problems of an image an error tells.
const maxProblems = 5

// checkImage returns an error that matches vole.ErrCorrupt when an image is damaged. That
// Linux found errors before does not count when there are none now.
func checkImage(ctx context.Context, f *os.File) error {
	n, said := 0, ""
	err := ext4.Check(ctx, f, ext4.CheckOptions{}, func(p ext4.Problem) error {
		if p.Code == ext4.ProblemErrors || p.Harmless() {
			return nil
		}
		if n++; n <= maxProblems {
			said += "; " + p.String()
		}
		return nil
	})
	if err != nil || n == 0 {
		return err
	}
	if n > maxProblems {
		said += fmt.Sprintf("; and %d more", n-maxProblems)
	}
	return driver.Errorf(vole.ErrCorrupt, "the image is damaged, repair a copy of it with e2fsck%s", said)
}
