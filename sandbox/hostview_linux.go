package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/volehq/vole/internal/nofollow"
	"golang.org/x/sys/unix"
)

// skeleton are the directories of a sandbox on the host's root that are its own.
var skeleton = []string{
	"dev", "home", "media", "mnt", "proc", "root", "run", "srv", "sys", "tmp",
	"var/cache", "var/lib", "var/log", "var/tmp",
}

// skeletonModes are the modes of those that are not 0755. runc gives what it mounts
// there the mode of the directory and ignores the mount's options.
var skeletonModes = map[string]fs.FileMode{
	"root": 0o700, "tmp": 0o777 | fs.ModeSticky, "var/tmp": 0o777 | fs.ModeSticky,
}

// makeSkeleton makes the directories that are the sandbox's own.
func makeSkeleton(root string) error {
	for _, d := range skeleton {
		at := filepath.Join(root, d)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if mode, ok := skeletonModes[d]; ok {
			if err := nofollow.ChmodPath(at, mode); err != nil {
				return err
			}
		}
	}
	return nil
}

// isSystemDir reports whether a directory in "/" is one of programs and their
// configuration. All else of the host is absent from its view.
func isSystemDir(name string) bool {
	switch name {
	case "usr", "bin", "sbin", "opt", "etc", "nix", "gnu":
		return true
	}
	return strings.HasPrefix(name, "lib") && !strings.Contains(name, "lost")
}

// hostView assembles the view of the host's root.
type hostView struct {
	root        string
	hiddenDirs  []string // directories to hide; clean and without links
	mountPoints []string // mount points that the host lacks; clean and without links
	idmap       *os.File // user namespace that maps no owner of files; nil: not possible
	asRoot      bool     // the sandbox's root is the host's
	copiedBytes int64    // bytes of /etc, where it is a copy
}

// assembleHostRoot makes root a read-only view of the host's root.
func (h *helper) assembleHostRoot(root string) error {
	view := &hostView{root: root, asRoot: !h.p.Rootless, hiddenDirs: h.hiddenDirs()}
	// Of its own, so that nothing else of the helper is on the same file system.
	if err := cmp.Or(mountTmpfs(root, "mode=755,size=64m"), makeSkeleton(root)); err != nil {
		return err
	}
	if view.asRoot {
		view.idmap = openNobodyNamespace()
		if view.idmap != nil {
			defer view.idmap.Close()
		}
	}
	list, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, m := range h.p.Mounts {
		p := resolveExisting(m.Path)
		if top, _, _ := strings.Cut(p[1:], "/"); !isSystemDir(top) {
			p = m.Path
		} else if st, err := os.Stat(p); err == nil && st.IsDir() {
			continue
		}
		view.mountPoints = append(view.mountPoints, p)
	}
	for _, e := range list {
		if isSystemDir(e.Name()) {
			if err := view.showHostPath("/"+e.Name(), e.Type()); err != nil {
				return fmt.Errorf("show /%s: %w", e.Name(), err)
			}
		}
	}
	for _, p := range view.mountPoints {
		if err := os.MkdirAll(filepath.Join(root, p), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// hiddenDirs are the home of Vole and the homes of users, in case they lie beneath a
// directory that is shown.
func (h *helper) hiddenDirs() []string {
	list := []string{h.p.Home, resolveExisting(h.p.Home), resolveExisting(h.p.Scratch)}
	b, _ := os.ReadFile("/etc/passwd") // without it there are no users
	for line := range strings.SplitSeq(string(b), "\n") {
		f := strings.Split(line, ":")
		if len(f) < 6 || !path.IsAbs(f[5]) || path.Clean(f[5]) == "/" {
			continue
		}
		if uid, ok := parseID32(f[2]); ok && uid >= 1000 && uid != 65534 {
			list = append(list, resolveExisting(f[5]))
		}
	}
	return list
}

// resolveExisting follows the links of that part of p that exists.
func resolveExisting(p string) string {
	p = path.Clean(p)
	for dir, rest := p, ""; ; dir, rest = path.Dir(dir), path.Join(path.Base(dir), rest) {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			return path.Join(real, rest)
		}
		if dir == "/" || dir == "." {
			return p
		}
	}
}

// showHostPath makes the host's p appear in the view.
func (v *hostView) showHostPath(p string, typ fs.FileMode) error {
	shown := filepath.Join(v.root, p)
	switch {
	case typ&fs.ModeSymlink != 0:
		target, err := os.Readlink(p)
		if err != nil {
			return err
		}
		return os.Symlink(target, shown)
	case typ.IsRegular():
		f, err := os.OpenFile(shown, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o444)
		if err != nil {
			return err
		}
		return cmp.Or(f.Close(), v.bindReadOnly(p, shown, false))
	case !typ.IsDir():
		return nil // sockets, pipes and devices of the host are not for a sandbox
	}
	if err := os.Mkdir(shown, 0o755); err != nil {
		return err
	}
	switch {
	case v.isHidden(p):
		return nil
	case v.containsSpecial(p):
		return v.showEntries(p)
	}
	return v.bindReadOnly(p, shown, true)
}

func (v *hostView) isHidden(p string) bool {
	return slices.ContainsFunc(v.hiddenDirs, func(dir string) bool { return isBeneath(p, dir) })
}

// containsSpecial reports whether a directory beneath p must be hidden, or is a mount point
// that the host lacks.
func (v *hostView) containsSpecial(p string) bool {
	within := func(special string) bool { return isBeneath(special, p) }
	return slices.ContainsFunc(v.hiddenDirs, within) || slices.ContainsFunc(v.mountPoints, within)
}

// showEntries shows the entries of p one by one, so that others can stand beside them.
func (v *hostView) showEntries(p string) error {
	st, err := os.Stat(p)
	if err != nil {
		return err
	}
	if v.asRoot && st.Mode()&0o001 == 0 {
		return nil // only its owner may enter: its entries must not become reachable
	}
	list, err := os.ReadDir(p)
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	for _, e := range list {
		if err := v.showHostPath(path.Join(p, e.Name()), e.Type()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// bindReadOnly mounts the host's p read-only at a path, with the id mapping if there is one.
// Under the mapping no file has an owner, so that the capabilities of the sandbox's root do
// not reach them and it has the rights of "others". A part of /etc that cannot be mapped is
// copied instead.
func (v *hostView) bindReadOnly(p, at string, recursive bool) error {
	source, err := os.OpenFile(p, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer source.Close()
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if v.idmap != nil {
		mapped := attr
		mapped.Attr_set |= unix.MOUNT_ATTR_IDMAP
		mapped.Userns_fd = uint64(v.idmap.Fd())
		if bindByPath(source, at, mapped, recursive) == nil || recursive && bindByPath(source, at, mapped, false) == nil {
			return nil
		}
	}
	if v.asRoot && isBeneath(p, "/etc") {
		return v.copyPublicFiles(p, at)
	}
	return bindByPath(source, at, attr, recursive)
}

// unownedIDs are candidates for the one id that a user namespace for bindReadOnly must
// map, whose files the sandbox's root would own: the largest that fits 31 bits, which no
// system gives anyone. The user nobody is second, for a caller whose own namespace has fewer
// ids.
var unownedIDs = []int{1<<31 - 2, 65534}

// openNobodyNamespace returns a user namespace for bindReadOnly, or nil.
func openNobodyNamespace() *os.File {
	for _, id := range unownedIDs {
		if ns := openNamespaceOf(id); ns != nil {
			return ns
		}
	}
	return nil
}

// openNamespaceOf returns a user namespace that maps one id to itself, or nil.
func openNamespaceOf(id int) *os.File {
	ids := []syscall.SysProcIDMap{{ContainerID: id, HostID: id, Size: 1}}
	c := &exec.Cmd{Path: "/proc/self/exe", Args: []string{asIDMap}, Env: []string{}}
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
	in, err := c.StdinPipe()
	if err != nil {
		return nil
	}
	if err := c.Start(); err != nil {
		in.Close()
		return nil
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", c.Process.Pid))
	in.Close()
	_ = c.Wait() // its exit status does not matter
	if err != nil {
		return nil
	}
	return ns
}

// Bounds of a copy of /etc, which is held in memory.
const (
	maxCopyFile = 2 << 20
	maxCopyAll  = 32 << 20
)

// copyPublicFiles copies what all users of the host may read of src, a directory or a file, to
// dst, which exists.
func (v *hostView) copyPublicFiles(src, dst string) error {
	return filepath.WalkDir(src, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(dst, strings.TrimPrefix(p, src))
		info, err := e.Info()
		if err != nil {
			return nil // removed since it was listed
		}
		switch mode := info.Mode(); {
		case mode.IsDir() && mode&0o005 != 0o005:
			return fs.SkipDir
		case mode.IsDir() && p == src:
			return nil
		case mode.IsDir():
			return os.Mkdir(target, 0o755)
		case mode&fs.ModeSymlink != 0:
			linked, err := os.Readlink(p)
			if err != nil {
				return nil
			}
			return os.Symlink(linked, target)
		case !mode.IsRegular() || mode&0o004 == 0 || info.Size() > min(maxCopyFile, maxCopyAll-v.copiedBytes):
			return nil
		}
		v.copiedBytes += info.Size()
		return copyPublicFile(p, target)
	})
}

// copyPublicFile copies a file of the host, following no link and no further than maxCopyFile.
func copyPublicFile(from, to string) error {
	in, err := os.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil // removed or replaced since it was listed
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil || !st.Mode().IsRegular() || st.Mode()&0o004 == 0 {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(in, maxCopyFile))
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, st.Mode()&0o555|0o444)
}

// planHostFiles are the mounts that hide secrets on the host's root, and those that give a
// sandbox on the host's network the host's name servers.
func (h *helper) planHostFiles(root string) ([]treeMount, error) {
	var list []treeMount
	if h.p.Rootfs == "" && h.p.Image == "" {
		empty := filepath.Join(h.dir, "hidden")
		if err := os.WriteFile(empty, nil, 0o400); err != nil {
			return nil, err
		}
		// Not the specification's masked paths: they would hide a volume there.
		for _, p := range secretPaths {
			st, err := os.Lstat(filepath.Join(root, p))
			switch {
			case err != nil:
			case st.IsDir():
				list = append(list, treeMount{path: p, attr: closedAttr, data: "mode=555,size=4k"})
			case st.Mode().IsRegular():
				list = append(list, treeMount{path: p, source: empty, file: true, attr: closedAttr})
			}
		}
	}
	if !h.p.HostNetwork {
		return list, nil
	}
	// The first is a link into /run on many hosts, which the sandbox lacks.
	for _, name := range []string{"/etc/resolv.conf", "/etc/hosts"} {
		b, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		copied := filepath.Join(h.dir, path.Base(name))
		if err := os.WriteFile(copied, b, 0o444); err != nil {
			return nil, err
		}
		list = append(list, treeMount{path: name, source: copied, file: true, attr: closedAttr})
	}
	return list, nil
}

const closedAttr = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
