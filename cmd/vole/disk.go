package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/loop"
	"github.com/volehq/vole/transfer"
	"golang.org/x/sys/unix"
)

func newDiskCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "disk",
		Short: "Work with images of ext4, and bring them into volumes and out",
		Long: `Work with files that hold an ext4 file system: images that other programs made, or that
were exported. No mount is needed, nor root. Disk volumes of Vole need none of it:
'vole doctor' checks them, 'vole set' makes them larger, 'vole create --from' fills them.`,
		Example: `  vole disk import rootfs.ext4 rootfs
  vole disk export rootfs rootfs.ext4.zst --zstd
  vole disk check rootfs.ext4`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return groupRun(cmd, args) },
	}
	cmd.AddCommand(newDiskCheckCmd(a), newDiskDumpCmd(a), newDiskGrowCmd(a), newDiskImportCmd(a), newDiskExportCmd(a))
	return cmd
}

// completeImage completes a file of the host, and what follows it by next.
func completeImage(next completer) completer {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return next(cmd, args, prefix)
	}
}

// openImage opens an image of the host, which nobody may write meanwhile, nor read if
// this is to write.
func openImage(op, name string, write bool) (*os.File, error) {
	flag, lock := os.O_RDONLY, unix.LOCK_SH
	if write {
		flag, lock = os.O_RDWR, unix.LOCK_EX
	}
	f, err := openFileOrDevice(name, flag|unix.O_NONBLOCK) // not to wait for a fifo
	if err != nil {
		return nil, imageError(op, name, err)
	}
	if err := claimImage(f, lock, write); err != nil {
		f.Close()
		return nil, imageError(op, name, err)
	}
	return f, nil
}

// openFileOrDevice opens a file, or a block device, which no file system may be mounted from
// but for reading only.
func openFileOrDevice(name string, flag int) (*os.File, error) {
	st, err := os.Stat(name)
	if err != nil || !isBlockDevice(st.Mode()) {
		return os.OpenFile(name, flag, 0)
	}
	f, err := os.OpenFile(name, flag|unix.O_EXCL, 0) // of a device: for one user alone
	if !errors.Is(err, unix.EBUSY) {
		return f, err
	}
	if flag&unix.O_ACCMODE == os.O_RDONLY && onlyMountedReadOnly(st) {
		return os.OpenFile(name, flag, 0)
	}
	return nil, driver.Errorf(vole.ErrInUse, "the device is in use, by a mount perhaps; unmount it first")
}

// onlyMountedReadOnly reports whether all mounts of a block device are for reading only.
func onlyMountedReadOnly(device os.FileInfo) bool {
	st, ok := device.Sys().(*syscall.Stat_t)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if !ok || err != nil {
		return false
	}
	number := fmt.Sprintf("%d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))
	found := false
	for line := range strings.Lines(string(mounts)) {
		_, source, _ := strings.Cut(line, " - ") // type, source, options of the file system
		mount, options := strings.Fields(line), strings.Fields(source)
		if len(mount) < 3 || mount[2] != number || len(options) < 3 {
			continue
		}
		found = true
		if o := strings.Split(options[2], ","); !slices.Contains(o, "ro") {
			return false
		}
	}
	return found
}

func claimImage(f *os.File, lock int, write bool) error {
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
	for {
		err = unix.Flock(int(f.Fd()), lock|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return driver.Errorf(vole.ErrInUse, "in use by another process; stop it first")
	}
	for _, d := range loop.Of(f) {
		if write || !d.ReadOnly {
			return driver.Errorf(vole.ErrInUse, "in use by the loop device %s; unmount it first", d.Name)
		}
	}
	return err
}

// imageError gives errors about an image Vole's sentinels, and its path.
func imageError(op, name string, err error) error {
	var errno unix.Errno
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

func (a *app) printImage(j sizeJSON) error {
	switch {
	case a.json:
		return a.printJSON(j)
	case a.quiet:
		return nil
	}
	return a.printf("%s\n", j.File)
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
