package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/pathwalk"
	"github.com/volehq/vole/transfer"
)

// location is one side of a copy as it was given.
type location struct {
	arg    string
	volume string // "": the host
	path   string
	stream bool // "-"
	asLink bool // a link that path itself is, is not followed

	files *vole.FS // of volume, once they are open
}

// parseLocation parses one side of a copy: "-", NAME:/path, or a path of the host.
func parseLocation(arg string) location {
	if arg == "-" {
		return location{arg: arg, stream: true}
	}
	name, p, ok := splitVolumePath(arg)
	if ok && p == "" {
		p = "/"
	}
	return location{arg: arg, volume: name, path: p}
}

// displayPath is the location as messages show it.
func (l location) displayPath() string {
	if l.volume == "" {
		return l.arg
	}
	return l.volume + ":" + driver.RootedPath(l.path)
}

// asksForContents reports whether a path asks for what is in a directory instead of the
// directory itself.
func (l location) asksForContents() bool { return l.path == "." || strings.HasSuffix(l.path, "/.") }

// followsLink reports whether the form of a path follows a link at its end.
func (l location) followsLink() bool { return asksForDir(l.path) }

// copySource is the source of a copy, found and open. closeOpened closes it.
type copySource struct {
	tree     transfer.Tree
	fsys     *vole.FS // of a volume; nil: the host
	path     string   // in tree
	name     string   // that the copy gets in a directory
	contents bool     // copy what is in it, not itself

	mode  fs.FileMode
	size  int64
	inode uint64 // in a volume
}

// copyTarget is the target of a copy, found and open. closeOpened closes it.
type copyTarget struct {
	tree   transfer.Tree
	fsys   *vole.FS // of a volume; nil: the host
	dir    string   // of the host, that is tree
	path   string   // in tree
	exists bool
	isDir  bool
}

// openVolumeSource finds the source of a copy in a volume.
func openVolumeSource(ctx context.Context, l location, follow bool) (*copySource, error) {
	f := l.files
	p, err := cleanPath("cp", l.volume, l.path)
	if err != nil {
		return nil, err
	}
	name := path.Base(p)
	if follow || l.followsLink() {
		if p, err = resolveInVolume(ctx, f, p); err != nil {
			return nil, err
		}
	}
	e, err := f.Lstat(ctx, p)
	if err != nil {
		return nil, err
	}
	if l.followsLink() && !e.IsDir() {
		return nil, &vole.Error{Op: "cp", Volume: l.volume, Path: l.path, Err: vole.ErrNotDir}
	}
	return &copySource{
		tree: transfer.Volume(f), fsys: f, path: p, name: name,
		contents: l.asksForContents() || name == ".", // the root has no name of its own
		mode:     e.Mode, size: e.Size, inode: e.Inode,
	}, nil
}

// openHostSource finds the source of a copy on the host. op is the operation in its errors.
func (a *app) openHostSource(op string, l location, follow bool) (*copySource, error) {
	home, err := a.homeUnlessCloud()
	if err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(l.path)
	if err != nil {
		return nil, err
	}
	name := filepath.Base(abs)
	real := abs
	if follow || l.followsLink() {
		if real, err = filepath.EvalSymlinks(abs); err != nil {
			return nil, transfer.HostError(op, l.path, err)
		}
	}
	info, err := os.Lstat(real)
	if err != nil {
		return nil, transfer.HostError(op, l.path, err)
	}
	if l.followsLink() && !info.IsDir() {
		return nil, transfer.HostError(op, l.path, vole.ErrNotDir)
	}
	dir, p := filepath.Dir(real), filepath.Base(real)
	if info.IsDir() {
		if containsHome(info, home) {
			return nil, usageErrorf("%s: %s holds the volumes themselves, in %s", op, l.arg, home)
		}
		dir, p = real, "."
	}
	h, err := transfer.OpenHost(dir)
	if err != nil {
		return nil, err
	}
	a.closeAtEnd(h)
	return &copySource{tree: h, path: p, name: name, contents: l.asksForContents(), mode: info.Mode(), size: info.Size()}, nil
}

// containsHome reports whether the home lies in the directory that dir describes: copying
// that into a volume would never end.
func containsHome(dir os.FileInfo, home string) bool {
	if home == "" { // the volumes are behind a server
		return false
	}
	home, err := filepath.EvalSymlinks(home)
	if err != nil {
		return false
	}
	for {
		if info, err := os.Stat(home); err == nil && os.SameFile(info, dir) {
			return true
		}
		up := filepath.Dir(home)
		if up == home {
			return false
		}
		home = up
	}
}

// openVolumeTarget finds the target of a copy in a volume. What a link leads to is meant,
// there or not.
func openVolumeTarget(ctx context.Context, l location) (*copyTarget, error) {
	f := l.files
	p, err := cleanPath("cp", l.volume, l.path)
	if err != nil {
		return nil, err
	}
	if l.asLink {
		dir, err := resolveInVolume(ctx, f, path.Dir(p))
		if err != nil {
			return nil, err
		}
		p = path.Join(dir, path.Base(p))
	} else if p, err = resolveInVolume(ctx, f, p); err != nil {
		return nil, err
	}
	e, err := f.Lstat(ctx, p)
	target := &copyTarget{tree: transfer.Volume(f), fsys: f, path: p, exists: err == nil, isDir: err == nil && e.IsDir()}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
		parent, perr := f.Lstat(ctx, path.Dir(p))
		if perr != nil {
			return nil, withHint(perr, fs.ErrNotExist, "'vole fs mkdir -p %s:%s' makes it", l.volume, absPath(path.Dir(p)))
		}
		if !parent.IsDir() {
			err = &vole.Error{Op: "cp", Volume: l.volume, Path: absPath(path.Dir(p)), Err: vole.ErrNotDir}
		}
	}
	return target, err
}

// openHostTarget finds the target of a copy on the host, and opens the directory that all
// is written beneath: the target itself if it is a directory, else the one around it. It follows
// links by itself, one by one, so that it can refuse those of other users (checkLinkOwner) and
// stop before open files of processes. What was looked at and what was opened are compared, since
// another user may replace a directory in between.
func (a *app) openHostTarget(l location) (*copyTarget, error) {
	p, err := filepath.Abs(l.path)
	if err != nil {
		return nil, err
	}
	for n := 0; n < pathwalk.MaxLinks && !l.asLink; n++ { // a link that leads nowhere yet is followed too
		if err := transfer.CheckDescriptor(p); err != nil {
			return nil, transfer.HostError("cp", l.path, err)
		}
		to, err := os.Readlink(p)
		if err != nil || transfer.OpenFileLink(p) {
			break
		}
		if err := checkLinkOwner(p); err != nil {
			return nil, transfer.HostError("cp", l.path, err)
		}
		p = resolveHostLink(p, to)
	}
	info, err := os.Lstat(p)
	if err == nil && info.Mode()&fs.ModeSymlink != 0 && !l.asLink && !transfer.OpenFileLink(p) {
		err = driver.Errorf(vole.ErrLoop, "it leads through more than %d links, or another process changes it", pathwalk.MaxLinks)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, transfer.HostError("cp", l.path, err)
	}
	target := &copyTarget{exists: err == nil, isDir: err == nil && info.IsDir(), dir: p, path: "."}
	if !target.isDir {
		target.dir, target.path = filepath.Dir(p), filepath.Base(p)
	}
	h, err := transfer.OpenHost(target.dir)
	if err != nil {
		return nil, err
	}
	if target.isDir && !h.Is(info) {
		return nil, errors.Join(transfer.HostError("cp", l.path, driver.Errorf(vole.ErrExists, "another user replaced it while it was opened")), h.Close())
	}
	a.closeAtEnd(h)
	target.tree = h
	return target, nil
}

// openNode opens the device or fifo of the host that the target at is, to write a copy into it;
// nil: it is neither.
func (t *copyTarget) openNode(ctx context.Context, at string) (*os.File, error) {
	if t.fsys != nil {
		return nil, nil
	}
	return transfer.OpenNode(ctx, filepath.Join(t.dir, filepath.FromSlash(at)))
}

// refuseNodeTarget returns an error when the target is what openNode opens, into which only the
// content of a file can be written. A link that leads there, as /dev/stdout
// does, is relied on like the device or the open file itself.
func (t *copyTarget) refuseNodeTarget(l location) error {
	if t.fsys == nil && transfer.NodeAt(filepath.Join(t.dir, filepath.FromSlash(t.path))) {
		return transfer.HostError("cp", l.path, driver.Errorf(vole.ErrExists, "it is or leads to a device, a fifo, a socket or an open file, which no link replaces; name another target, or remove it"))
	}
	return nil
}

// checkLinkOwner returns an error when the link at p is another user's, in a directory such as
// /tmp where everyone may make one: a user who guesses the target of a copy could lead it
// elsewhere. It is the rule of Linux's fs.protected_symlinks, which the kernel does not
// apply to links that a program reads instead of following them, and which may be off.
func checkLinkOwner(p string) error {
	link, err := os.Lstat(p)
	if err != nil {
		return err
	}
	dir, err := os.Stat(filepath.Dir(p))
	if err != nil {
		return err
	}
	shared := dir.Mode()&fs.ModeSticky != 0 && dir.Mode().Perm()&0o002 != 0
	if shared && fileOwner(link) != os.Geteuid() && fileOwner(link) != fileOwner(dir) {
		return driver.Errorf(vole.ErrPermission, "it is a link of another user (uid %d) in a directory that everyone may write to, and is not followed; name what it leads to", fileOwner(link))
	}
	return nil
}

// chooseTargetPath decides where in the target the copy goes, by the rules of docker cp:
//
//	target           source a file       source a directory    SRC/.
//	a directory      into it, by name    into it, by name      merged into it
//	a file           replaces it         refused               refused
//	does not exist   becomes it          becomes it            becomes it
//
// A target with a slash at its end must be a directory, or become one.
func chooseTargetPath(o *copySource, target *copyTarget, l location) (at string, err error) {
	switch {
	case target.isDir:
		if o.contents {
			return target.path, nil
		}
		return path.Join(target.path, o.name), nil
	case target.exists && o.mode.IsDir():
		return "", &fs.PathError{Op: "cp", Path: l.displayPath(), Err: driver.Errorf(vole.ErrNotDir, "a directory cannot be copied onto a file")}
	case target.exists && asksForDir(l.path):
		return "", &fs.PathError{Op: "cp", Path: l.displayPath(), Err: vole.ErrNotDir}
	case target.exists, o.mode.IsDir():
		return target.path, nil
	case asksForDir(l.path):
		return "", &fs.PathError{Op: "cp", Path: l.displayPath(), Err: driver.Errorf(vole.ErrNotExist, "no such directory")}
	}
	return target.path, nil
}

// resolveInVolume follows the links of a path in a volume, the last element's too. What does not
// exist, there or further on, stays as it is written.
func resolveInVolume(ctx context.Context, f *vole.FS, p string) (string, error) {
	w := pathwalk.Walker[string]{
		Lookup: func(dir string, s pathwalk.Step) (string, pathwalk.Kind, error) {
			next := path.Join(dir, s.Name)
			e, err := f.Lstat(ctx, next)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return next, pathwalk.Missing, nil
			case err != nil:
				return "", 0, err
			case e.Mode&fs.ModeSymlink != 0:
				return next, pathwalk.Link, nil
			case e.IsDir():
				return next, pathwalk.Directory, nil
			}
			return next, pathwalk.Other, nil
		},
		Readlink: func(link string) (string, error) { return f.Readlink(ctx, link) },
	}
	steps, err := w.Walk(".", p)
	if err == nil {
		return steps[len(steps)-1], nil
	}
	if wrapped := (*vole.Error)(nil); !errors.As(err, &wrapped) {
		err = &vole.Error{Op: "cp", Volume: f.Volume().Name(), Path: p, Err: err}
	}
	return "", err
}

// resolveHostLink is the path of what the link at p leads to, on the host. A ".." in a target
// is the parent of the directory that the link is in, which p may name through links.
func resolveHostLink(p, target string) string {
	if !filepath.IsAbs(target) {
		target = evalParentLinks(filepath.Dir(p)) + "/" + target
	}
	dir, name := filepath.Split(target)
	if name == "" || name == "." || name == ".." {
		return evalParentLinks(target)
	}
	return filepath.Join(evalParentLinks(dir), name)
}

// evalParentLinks follows the links of a path by their text, if that leads where the kernel
// gets: links of /proc need not.
func evalParentLinks(dir string) string {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return filepath.Clean(dir)
	}
	a, errReal := os.Stat(real)
	b, errDir := os.Stat(dir)
	if errReal != nil || errDir != nil || !os.SameFile(a, b) {
		return filepath.Clean(dir)
	}
	return real
}
