package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/loop"
	"golang.org/x/sys/unix"
)

// A disk volume is mounted by the helper, in its own mount namespace, through a loop
// device that the kernel takes away with the last mount. Two things keep others from
// the image while it is mounted: the attachment's lock, which the helper inherits and so
// keeps when the supervisor dies, and after the helper's own death the loop device itself,
// which every opener of an image looks for.

// planDisk is an image to mount. Its hold is the helper's file fdHolds + its number.
type planDisk struct {
	Image    string
	ReadOnly bool
}

// disk is an image that this sandbox has attached.
type disk struct {
	att *vole.Attachment
	vol string // id
}

// attachDisk attaches a disk volume, or finds that an earlier mount has.
func (r *supervisedSandbox) attachDisk(ctx context.Context, p *plan, v *vole.Volume, mount Mount) error {
	if p.Rootless {
		return driver.Errorf(vole.ErrUnsupported,
			"mount %s: only root can mount a disk volume; use a dir volume, or 'vole attach' with a virtual machine", mount)
	}
	n := slices.IndexFunc(r.disks, func(d disk) bool { return d.vol == v.ID() })
	if n < 0 {
		n = len(r.disks)
		a, err := r.holdDisk(ctx, v, r.mountsReadOnly(mount.Volume))
		if err != nil {
			return err
		}
		r.attached = append(r.attached, a)
		r.disks = append(r.disks, disk{a, v.ID()})
		p.Disks = append(p.Disks, planDisk{Image: a.Path(), ReadOnly: a.Info().ReadOnly})
	}
	if p.Disks[n].ReadOnly && !mount.ReadOnly {
		return driver.Errorf(vole.ErrInvalid, "mount %s: another mount names the same volume differently and is read-only; use one name for both", mount)
	}
	p.Mounts = append(p.Mounts, planMount{Mount: mount, Disk: n + 1})
	return nil
}

// mountsReadOnly reports whether no mount of the volume writes.
func (r *supervisedSandbox) mountsReadOnly(name string) bool {
	return !slices.ContainsFunc(r.c.Mounts, func(m Mount) bool { return m.Volume == name && !m.ReadOnly })
}

// holdDisk attaches a disk volume. A dirty log makes the kernel write even for a read-only
// mount, so the log is replayed first.
func (r *supervisedSandbox) holdDisk(ctx context.Context, v *vole.Volume, readOnly bool) (*vole.Attachment, error) {
	for replayed := false; ; replayed = true {
		a, err := v.Attach(ctx, vole.AttachOptions{Holder: "sandbox " + r.info.Name, HostPath: true, ReadOnly: readOnly})
		if err != nil {
			return nil, err
		}
		if a.Path() == "" || a.Hold() == nil {
			return a, driver.Errorf(vole.ErrUnsupported, "the volume %s has no place on this host", v.Name())
		}
		if !readOnly || replayed || !isLogDirty(a.Path()) {
			return a, nil
		}
		if err := a.Detach(ctx); err != nil {
			return nil, err
		}
		if err := replayDiskLog(ctx, v); err != nil {
			return nil, fmt.Errorf("replay the log of volume %s, which a crash left: %w", v.Name(), err)
		}
	}
}

// isLogDirty reports whether the log of an image must be replayed before a read-only mount.
func isLogDirty(image string) bool {
	f, err := os.Open(image)
	if err != nil {
		return false // the mount will say why
	}
	defer f.Close()
	d, err := ext4.Describe(f, 0)
	return err == nil && d.Dirty
}

// replayDiskLog replays a disk's log by opening its files in this process, without a mount.
func replayDiskLog(ctx context.Context, v *vole.Volume) error {
	f, err := v.FS(ctx)
	if err != nil {
		return err
	}
	return f.Close()
}

// inheritedHolds are the files by which the images are held, for the helper to inherit.
func (r *supervisedSandbox) inheritedHolds() []*os.File {
	var list []*os.File
	for _, d := range r.disks {
		list = append(list, d.att.Hold())
	}
	return list
}

// awaitUnmount waits until the kernel has unmounted the images: with the last process
// of a namespace its mounts go, but writing back dirty pages takes time.
func (r *supervisedSandbox) awaitUnmount(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	for _, d := range r.disks {
		if d.att.Info().ReadOnly {
			continue // others may have it mounted too, and nothing is written back
		}
		f, err := os.Open(d.att.Path())
		if err != nil {
			continue // removed
		}
		for len(loop.Of(f)) > 0 && ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-time.After(time.Millisecond):
			}
		}
		f.Close()
	}
}

// mountDisks mounts the images in the helper's namespace.
func (h *helper) mountDisks() error {
	for i, d := range h.p.Disks {
		at := filepath.Join(h.dir, "disk", fmt.Sprint(i))
		if err := os.MkdirAll(at, 0o700); err != nil {
			return err
		}
		if err := mountDisk(d, fdHolds+i, at); err != nil {
			return fmt.Errorf("mount the image %s: %w", d.Image, err)
		}
	}
	return nil
}

// mountDisk mounts an image that is held by the open file hold.
func mountDisk(d planDisk, hold int, target string) error {
	flag, mount := os.O_RDWR, uintptr(unix.MS_NODEV)
	if d.ReadOnly {
		flag, mount = os.O_RDONLY, mount|unix.MS_RDONLY
	}
	image, err := os.OpenFile(d.Image, flag|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer image.Close()
	var held, st unix.Stat_t
	if err := cmp.Or(unix.Fstat(hold, &held), unix.Fstat(int(image.Fd()), &st)); err != nil {
		return err
	}
	if held.Dev != st.Dev || held.Ino != st.Ino {
		return driver.Errorf(vole.ErrNotFound, "it was removed while it was being mounted")
	}
	dev, err := loop.Attach(image, d.ReadOnly)
	if err != nil {
		return driver.Errorf(vole.ErrUnsupported, "this host gives no loop device: %v", err)
	}
	defer dev.Close() // the mount keeps it
	// errors=: an image may ask for a panic of the host on errors. discard: deleted files
	// give their storage back.
	opts := "errors=remount-ro"
	if !d.ReadOnly {
		opts += ",discard"
	}
	return explainDiskMount(unix.Mount(dev.Name(), target, "ext4", mount, opts))
}

// explainDiskMount says what an error of mounting an image means and what to do.
func explainDiskMount(err error) error {
	switch {
	case errors.Is(err, unix.ENODEV):
		return driver.Errorf(vole.ErrUnsupported, "this kernel has no ext4")
	case errors.Is(err, unix.EPERM):
		return driver.Errorf(vole.ErrUnsupported, "the kernel does not let this process mount: %v", err)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EUCLEAN), errors.Is(err, unix.EBADMSG):
		return driver.Errorf(vole.ErrCorrupt, "the kernel does not take its file system (%v); 'vole doctor' looks into it, 'dmesg' says more", err)
	case errors.Is(err, unix.EROFS):
		return driver.Errorf(vole.ErrReadOnly, "its log is to be replayed first; mount it once for writing")
	}
	return os.NewSyscallError("mount", err)
}
