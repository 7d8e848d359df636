package bucket

import (
	"slices"
	"strings"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/sqldb"
)

// maxLinks is how many symbolic links one path may lead through, as in Linux.
const maxLinks = 40

// resolved is where a path leads: a name in a directory, and what it names.
type resolved struct {
	parent inode
	name   string
	node   *inode // the named inode; nil: nothing is there
	// missingDirs are the directories between parent and name that do not exist yet.
	missingDirs []string
	// ancestors are the inode numbers of the directories from the root down to parent.
	ancestors []int64
}

// resolveMode says how the last element of a path is treated, and missing ones before it.
type resolveMode struct {
	followLast          bool // follow a symbolic link that is the last element
	allowMissingParents bool // return missing parents in missingDirs, instead of ErrNotExist
}

// pathWalker resolves paths within one volume. No path leads out of it: ".." above the root,
// which only a symbolic link can have, and absolute link targets are errors.
type pathWalker struct {
	db  sqldb.DB
	run sqldb.Runner // of db, inside a transaction or outside
	vol []byte
	// prefetched has the inodes along paths from the root that were looked up before, by
	// path.
	prefetched map[string][]inode
}

// pathElem is one element of a path that is still to be walked.
type pathElem struct {
	name     string
	fromLink bool // it comes from the target of a symbolic link
}

// splitPath splits a path into elements. "." and empty ones are left out.
func splitPath(path string, link bool) []pathElem {
	var list []pathElem
	for e := range strings.SplitSeq(path, "/") {
		if e != "" && e != "." {
			list = append(list, pathElem{e, link})
		}
	}
	return list
}

// resolve finds where a path leads. The path is clean, as driver.CleanPath returns it. It
// looks up as many elements at once as it can: until a symbolic link or "..".
func (walker *pathWalker) resolve(path string, mode resolveMode) (resolved, error) {
	todo := splitPath(path, false)
	first, err := walker.lookupElems(rootIno, path, todo)
	if err != nil {
		return resolved{}, err
	}
	if len(first) == 0 {
		return resolved{}, driver.ErrNotFound // without a root the volume is being removed
	}
	dirs := []inode{first[0]}
	got := first[1:]
	links := 0
	for len(todo) > 0 {
		elem, last := todo[0], len(todo) == 1
		if len(elem.name) > driver.MaxElemLen {
			return resolved{}, driver.Errorf(driver.ErrInvalid, "%q leads through a symbolic link with an element of %d bytes; the most is %d", path, len(elem.name), driver.MaxElemLen)
		}
		if elem.name == ".." {
			if len(dirs) == 1 {
				return resolved{}, pathEscapeError(path)
			}
			dirs, todo, got = dirs[:len(dirs)-1], todo[1:], nil
			continue
		}
		if got == nil {
			if got, err = walker.lookupElems(dirs[len(dirs)-1].ino, "", todo); err != nil {
				return resolved{}, err
			}
			if len(got) == 0 { // the directory was removed since
				return resolved{}, driver.ErrNotExist
			}
			got = got[1:]
		}
		if len(got) == 0 {
			return resolveMissing(dirs, todo, mode)
		}
		n := got[0]
		got = got[1:]
		todo = todo[1:]
		switch {
		case n.isSymlink() && (!last || mode.followLast):
			if links++; links > maxLinks {
				return resolved{}, driver.ErrLoop
			}
			target := string(n.target)
			if strings.HasPrefix(target, "/") {
				return resolved{}, pathEscapeError(path)
			}
			todo, got = slices.Concat(splitPath(target, true), todo), nil
		case last:
			return resolvedAt(dirs, elem.name, &n), nil
		case n.isDir():
			// If got is empty now, the lookup ended here: the next element is missing.
			dirs = append(dirs, n)
		default:
			return resolved{}, driver.ErrNotDir
		}
	}
	// The path is the root, or ends with a link whose target ends with dots.
	top := dirs[len(dirs)-1]
	return resolved{parent: top, node: &top, ancestors: inodeNumbers(dirs)}, nil
}

// pathEscapeError is the error for a path that leads out of the volume.
func pathEscapeError(path string) error {
	return driver.Errorf(driver.ErrPathEscape, "%q leads through a symbolic link out of the volume", path)
}

// resolvedAt returns the name in the last of dirs as the result.
func resolvedAt(dirs []inode, name string, n *inode) resolved {
	return resolved{parent: dirs[len(dirs)-1], name: name, node: n, ancestors: inodeNumbers(dirs)}
}

// resolveMissing returns the result of resolve if the next element does not exist. Missing
// parents must be plain names of the path itself, not of a link.
func resolveMissing(dirs []inode, todo []pathElem, mode resolveMode) (resolved, error) {
	if len(todo) == 1 {
		return resolvedAt(dirs, todo[0].name, nil), nil
	}
	if !mode.allowMissingParents {
		return resolved{}, driver.ErrNotExist
	}
	target := resolvedAt(dirs, todo[len(todo)-1].name, nil)
	for _, elem := range todo[:len(todo)-1] {
		if elem.fromLink || elem.name == ".." {
			return resolved{}, driver.ErrNotExist
		}
		target.missingDirs = append(target.missingDirs, elem.name)
	}
	return target, nil
}

// inodeNumbers returns the inode numbers of directories.
func inodeNumbers(dirs []inode) []int64 {
	list := make([]int64, len(dirs))
	for i, d := range dirs {
		list[i] = d.ino
	}
	return list
}

// lookupElems returns the inode of a directory, and those along the next elements, up to the
// first that is missing, is no directory, or is "..".
func (walker *pathWalker) lookupElems(ino int64, path string, todo []pathElem) ([]inode, error) {
	if path != "" && ino == rootIno {
		if c, ok := walker.prefetched[path]; ok {
			return c, nil
		}
	}
	var names []string
	for _, elem := range todo {
		if elem.name == ".." {
			break
		}
		names = append(names, elem.name)
	}
	return lookupPath(walker.db, walker.run, walker.vol, ino, names)
}
