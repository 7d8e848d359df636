package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/sandbox/internal/image"
	"github.com/volehq/vole/transfer"
	"golang.org/x/sys/unix"
)

// makeRootFilesystem makes the root file system and returns its path. It also decides what to
// run in it, which an image may say.
func (h *helper) makeRootFilesystem(ctx context.Context) (string, error) {
	root := filepath.Join(h.dir, "root")
	var cfg image.Config
	var err error
	switch {
	case h.p.Image != "":
		cfg, err = h.unpackImageRoot(ctx, root)
	case h.p.Rootfs != "":
		err = h.mountOverlayRoot(ctx, root)
	default:
		err = h.assembleHostRoot(root)
	}
	if err == nil {
		h.proc, err = h.planProcess(root, cfg)
	}
	return root, err
}

// unpackImageRoot unpacks the image into the scratch directory. As that is thrown away, it
// needs no layer above.
func (h *helper) unpackImageRoot(ctx context.Context, root string) (image.Config, error) {
	dir := filepath.Join(h.p.Scratch, "rootfs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return image.Config{}, err
	}
	cfg, err := image.Unpack(ctx, h.p.Image, dir, h.p.Scratch, image.Options{
		Chown: !h.p.Rootless || h.p.Ranges, OS: runtime.GOOS, Arch: runtime.GOARCH, Digest: h.p.ImageDigest, Name: h.p.ImageName,
	})
	if errors.Is(err, vole.ErrCorrupt) && h.p.ImageName != "" {
		return cfg, driver.Errorf(vole.ErrCorrupt, "%v; --pull always fetches what is damaged again", err)
	}
	if err != nil {
		return cfg, err
	}
	return cfg, bindRootDir(dir, root)
}

// bindRootDir mounts dir as root, without devices and setuid.
func bindRootDir(dir, root string) error {
	f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if err := bindByPath(f, root, attr, false); err != nil {
		return err
	}
	return addMissingRootDirs(root)
}

// addMissingRootDirs makes what the runtime mounts on. An image may lack it.
func addMissingRootDirs(root string) error {
	r, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer r.Close()
	for _, d := range []string{"proc", "dev", "tmp"} {
		// Anything else there, a link too, is for the runtime to judge.
		if err := r.Mkdir(d, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	// runc gives what it mounts there the mode of the directory.
	if st, err := r.Lstat("tmp"); err == nil && st.IsDir() {
		err = r.Chmod("tmp", 0o777|fs.ModeSticky)
		if !errors.Is(err, fs.ErrPermission) { // of a user that is not mapped
			return err
		}
	}
	return nil
}

// mountOverlayRoot mounts a directory under a writable layer in the scratch directory, or
// copies it there where the kernel refuses that to this user.
func (h *helper) mountOverlayRoot(ctx context.Context, root string) error {
	lower, err := os.OpenFile(h.p.Rootfs, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer lower.Close()
	// The owner of a directory above may have replaced it by a link since the supervisor
	// checked it. From here on only the open directory is used.
	byHandle := fmt.Sprintf("/proc/self/fd/%d", lower.Fd())
	real, err := os.Readlink(byHandle)
	if err == nil {
		err = checkDirsApart(real, h.p.Rootfs, h.p.Home)
	}
	if err != nil {
		return err
	}
	upper, work := filepath.Join(h.p.Scratch, "upper"), filepath.Join(h.p.Scratch, "work")
	for _, d := range []string{upper, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	err = mountOverlay(lower, upper, work, root, h.p.Rootless)
	if err == nil {
		return addMissingRootDirs(root)
	}
	if !h.p.Rootless && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("mount a writable layer over %s: %w", h.p.Rootfs, err)
	}
	dir := filepath.Join(h.p.Scratch, "rootfs")
	if err := copyRoot(ctx, byHandle, dir); err != nil {
		return fmt.Errorf("copy %s: %w", h.p.Rootfs, err)
	}
	return bindRootDir(dir, root)
}

// copyRoot copies the directory src to dst, which must not exist: its directories, regular
// files and links, owned by the caller.
func copyRoot(ctx context.Context, src, dst string) error {
	if err := os.Mkdir(dst, 0o755); err != nil {
		return err
	}
	from, err := transfer.OpenHost(src)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := transfer.OpenHost(dst)
	if err != nil {
		return err
	}
	defer to.Close()
	_, err = transfer.Copy(ctx, to, ".", from, ".", transfer.Options{Plain: true})
	return err
}

// mountOverlay names its directories by descriptor, since the option's syntax has no
// room for all paths.
func mountOverlay(lower *os.File, upper, work, at string, rootless bool) error {
	u, err := os.OpenFile(upper, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer u.Close()
	w, err := os.OpenFile(work, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer w.Close()
	opts := fmt.Sprintf("lowerdir=/proc/self/fd/%d,upperdir=/proc/self/fd/%d,workdir=/proc/self/fd/%d", lower.Fd(), u.Fd(), w.Fd())
	if rootless {
		opts += ",userxattr" // the only kind that a user namespace may use
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	// Volatile: a layer that is thrown away need not be synced. Older kernels lack it.
	if err = unix.Mount("overlay", at, "overlay", flags, opts+",volatile"); err == unix.EINVAL {
		err = unix.Mount("overlay", at, "overlay", flags, opts)
	}
	return err
}

// planProcess works out what to run: the caller's word goes before the image's.
func (h *helper) planProcess(root string, cfg image.Config) (process, error) {
	var proc process
	entry := cfg.Entrypoint
	if h.p.HasEntrypoint {
		entry, cfg.Cmd = h.p.Entrypoint, nil
	}
	args := h.p.Args
	if len(args) == 0 {
		args = cfg.Cmd
	}
	proc.args = slices.Concat(entry, args)
	if len(proc.args) == 0 {
		return proc, driver.Errorf(vole.ErrInvalid, "the image has no command; give one")
	}
	user := cmp.Or(h.p.User, cfg.User)
	acct, err := resolveUser(root, user)
	if err != nil {
		return proc, err
	}
	if h.p.Rootless && !h.p.Ranges && (acct.uid != 0 || acct.gid != 0) {
		return proc, driver.Errorf(vole.ErrUnsupported,
			"user %q: without ranges in /etc/subuid and /etc/subgid, and newuidmap, a sandbox has only user 0", user)
	}
	proc.uid, proc.gid = acct.uid, acct.gid
	if !h.p.Rootless || h.p.Ranges {
		proc.groups = acct.groups
	}
	proc.cwd = cmp.Or(h.p.Cwd, cfg.WorkingDir, "/")
	if !path.IsAbs(proc.cwd) {
		proc.cwd = "/" + proc.cwd
	}
	proc.cwd = path.Clean(proc.cwd)
	proc.env = mergeEnvironment(defaultEnvironment(h.p, acct.home), cfg.Env, h.p.Env)
	// A runtime may read a string only to its first NUL, and so another one than was checked.
	for _, s := range slices.Concat(proc.args, proc.env, []string{proc.cwd}) {
		if strings.ContainsRune(s, 0) {
			return proc, driver.Errorf(vole.ErrInvalid, "the image's configuration has a NUL byte in %q", s)
		}
	}
	return proc, nil
}

// resolveInRoot opens name as if root were "/". The caller closes it.
func resolveInRoot(root, name string, flags int) (*os.File, error) {
	dir, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	f, err := openResolved(dir, name, flags, unix.RESOLVE_IN_ROOT)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return f, nil
}

// maxGuestFile bounds the files of a root that Vole itself reads.
const maxGuestFile = 1 << 20

// readGuestFile reads a small regular file of the root. Nothing else is opened: to open a
// device may already do something.
func readGuestFile(root, name string) ([]byte, error) {
	at, err := resolveInRoot(root, name, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer at.Close()
	st, err := at.Stat()
	switch {
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular():
		return nil, driver.Errorf(vole.ErrInvalid, "the sandbox's %s is not a regular file", name)
	case st.Size() > maxGuestFile:
		return nil, driver.Errorf(vole.ErrUnsupported, "the sandbox's %s has %v; the most that is read is %v", name, vole.Size(st.Size()), vole.Size(maxGuestFile))
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", at.Fd()))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxGuestFile))
}
