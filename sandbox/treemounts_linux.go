package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"golang.org/x/sys/unix"
)

// treeMount is a mount that the helper makes in the sandbox's tree. A runtime resolves the
// target of a mount while it still has all rights, and some runtimes can be redirected by a
// link that changes at that moment; so only /proc and the mounts in /dev are left to them.
type treeMount struct {
	path   string
	source string // of a bind mount; "": memory
	file   bool   // source is a file
	volume bool
	attr   uint64 // of unix.MOUNT_ATTR_*
	data   string // options of memory
}

// attrNames are the names that runtimes have for mount attributes.
var attrNames = []struct {
	attr uint64
	name string
}{
	{unix.MOUNT_ATTR_NOSUID, "nosuid"}, {unix.MOUNT_ATTR_NODEV, "nodev"}, {unix.MOUNT_ATTR_NOEXEC, "noexec"},
}

// runtimeMount is m in the words of the OCI runtime specification.
func (m treeMount) runtimeMount() specs.Mount {
	out := specs.Mount{Destination: m.path, Type: "tmpfs", Source: "tmpfs"}
	if m.source != "" {
		out.Type, out.Source, out.Options = "bind", m.source, []string{"rbind", "rprivate"}
	}
	if m.attr&unix.MOUNT_ATTR_RDONLY != 0 {
		out.Options = append(out.Options, "ro")
	} else {
		out.Options = append(out.Options, "rw")
	}
	for _, a := range attrNames {
		if m.attr&a.attr != 0 {
			out.Options = append(out.Options, a.name)
		}
	}
	if m.data != "" {
		out.Options = append(out.Options, strings.Split(m.data, ",")...)
	}
	return out
}

// planMemoryMounts are the directories of a sandbox that are private and in memory. The
// sizes bound the memory that a sandbox uses there if it has no memory limit.
func planMemoryMounts(host bool) []treeMount {
	const attr = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	list := []treeMount{{path: "/tmp", attr: attr, data: "mode=1777,size=1g"}}
	if host {
		list = append(list,
			treeMount{path: "/var/tmp", attr: attr, data: "mode=1777,size=1g"},
			treeMount{path: "/run", attr: attr, data: "mode=755,size=64m"},
			treeMount{path: "/root", attr: attr, data: "mode=700,size=1g"})
	}
	return list
}

// planVolumeMounts are the volumes, which the helper has mounted apart with their attributes.
func (h *helper) planVolumeMounts() []treeMount {
	var list []treeMount
	for i, m := range h.p.Mounts {
		list = append(list, treeMount{path: m.Path, source: h.mounts[i], volume: true, attr: m.mountAttributes()})
	}
	return list
}

// makeMountTargets makes all mounts in the root that are not left to the runtime, and returns
// them.
func (h *helper) makeMountTargets(root string) ([]treeMount, error) {
	var err error
	if h.tree, err = openGuestTree(root); err != nil {
		return nil, err
	}
	files, err := h.planHostFiles(root)
	if err != nil {
		return nil, err
	}
	host := h.p.Rootfs == "" && h.p.Image == ""
	list, err := h.mountAllInTree(slices.Concat(planMemoryMounts(host), files, h.planVolumeMounts()))
	return list, cmp.Or(err, h.checkRuntimePaths(root))
}

// checkRuntimePaths looks at the paths of the root that a runtime uses whatever it is
// told: where it mounts, and the files in which runc looks the user up, and would wait
// for ever for input of a pipe or a terminal.
func (h *helper) checkRuntimePaths(root string) error {
	for _, name := range []string{"/proc", "/dev"} {
		f, err := resolveInRoot(root, name, unix.O_PATH|unix.O_NOFOLLOW) // a link would take the mount elsewhere
		if isMissingPath(err) {
			continue
		}
		if err != nil {
			return err
		}
		st, err := f.Stat()
		f.Close()
		if err == nil && !st.IsDir() {
			err = driver.Errorf(vole.ErrInvalid, "%s of the sandbox's root is not a directory", name)
		}
		if err != nil {
			return err
		}
	}
	for _, name := range []string{"/etc/passwd", "/etc/group"} {
		f, err := h.tree.resolvePath(name, lookup{})
		switch {
		case isMountedByRuntime(err):
			return driver.Errorf(vole.ErrInvalid, "%s of the sandbox's root is not a file: it %v", name, err)
		case isMissingPath(err):
			continue
		case err != nil:
			return err
		}
		f.Close()
		if f.stat.Mode&unix.S_IFMT != unix.S_IFREG {
			return driver.Errorf(vole.ErrInvalid, "%s of the sandbox's root is not a file", name)
		}
	}
	return nil
}

// mountAllInTree mounts a list in the sandbox's tree, parents first, and returns it with the
// paths that the mounts really have.
func (h *helper) mountAllInTree(list []treeMount) ([]treeMount, error) {
	var out []treeMount
	for _, m := range list {
		real, err := h.tree.mountAtPath(m)
		if err != nil {
			return nil, explainMountTarget(m.path, err)
		}
		m.path = real
		out = append(out, m)
	}
	return out, nil
}

func explainMountTarget(p string, err error) error {
	switch {
	case isMountedByRuntime(err):
		return driver.Errorf(vole.ErrInvalid, "mount on %s: it %v", p, err)
	case errors.Is(err, unix.ENOTDIR):
		return driver.Errorf(vole.ErrNotDir, "mount on %s: it is not a directory of the sandbox", p)
	case errors.Is(err, unix.EROFS):
		return driver.Errorf(vole.ErrReadOnly, "mount on %s: it is not in the sandbox, where it cannot be made", p)
	case errors.Is(err, unix.ELOOP):
		return driver.Errorf(vole.ErrLoop, "mount on %s: too many links", p)
	}
	return fmt.Errorf("mount on %s: %w", p, err)
}

// mountAtPath makes one mount and returns its path without links.
func (g *guestTree) mountAtPath(mount treeMount) (string, error) {
	how := lookup{create: true, file: mount.file, mounts: true}
	target, err := g.resolvePath(mount.path, how)
	if err != nil {
		return "", err
	}
	defer target.Close()
	for _, r := range reserved {
		if isBeneath(target.path, r) {
			return "", driver.Errorf(vole.ErrInvalid, "a link of the root leads to %s, which belongs to the sandbox itself", target.path)
		}
	}
	if kind := target.stat.Mode & unix.S_IFMT; mount.file && kind != unix.S_IFREG || !mount.file && kind != unix.S_IFDIR {
		return "", unix.ENOTDIR
	}
	if err := mount.attachMount(target); err != nil {
		return "", err
	}
	// The open directory may have been moved within a volume that others write to.
	made, err := g.resolvePath(mount.path, how)
	if err != nil {
		return "", err
	}
	defer made.Close()
	before, err1 := readMountID(target.File)
	after, err2 := readMountID(made.File)
	if err := cmp.Or(err1, err2); err != nil {
		return "", err
	}
	if made.path != target.path || before == after {
		return "", driver.Errorf(vole.ErrInUse, "it changed while the sandbox started")
	}
	if mount.volume {
		g.volumes[after] = mount.path
	}
	return made.path, nil
}

// attachMount mounts m on an open file or directory of the tree.
func (m treeMount) attachMount(target guestFile) error {
	if m.source == "" {
		var flags uintptr = unix.MS_NOSUID | unix.MS_NODEV
		if m.attr&unix.MOUNT_ATTR_RDONLY != 0 {
			flags |= unix.MS_RDONLY
		}
		if m.attr&unix.MOUNT_ATTR_NOEXEC != 0 {
			flags |= unix.MS_NOEXEC
		}
		return os.NewSyscallError("mount", unix.Mount("tmpfs", target.handlePath(), "tmpfs", flags, m.data))
	}
	src, err := os.OpenFile(m.source, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	return bindByHandle(src, target.File, unix.MountAttr{Attr_set: m.attr}, false)
}
