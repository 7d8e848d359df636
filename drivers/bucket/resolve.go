package bucket

import (
	"slices"
	"strings"

	"github.com/volehq/vole/driver"
)

// maxLinks is how many symbolic links one path may lead through, as in Linux.
const maxLinks = 40

// queryRunner runs queries, in a transaction or outside of one.
type queryRunner func(list ...query) error

// resolved is where a path leads: a name in a directory, and what is there.
type resolved struct {
	parent inode
	name   string
	node   *inode // nil: nothing is there
	// missingDirs are directories between parent and name that are still to be made.
	missingDirs []string
	// ancestors are the inodes of the directories from the root down to parent.
	ancestors []int64
}

// resolveMode says how the last element of a path is treated, and missing ones before it.
type resolveMode struct {
	followLast          bool // a symbolic link is followed
	allowMissingParents bool // missing parents are what place.missing is for
}

// pathWalker resolves paths of one volume. No path leads out of it: "..", where links
// have it, ends at the root with an error, and so do absolute targets.
type pathWalker struct {
	vol        []byte
	run        queryRunner
	lookupPath func(run queryRunner, vol []byte, from int64, names []string) ([]inode, error)
	// prefetched has chains from the root that were asked for beforehand, by path.
	prefetched map[string][]inode
}

// pathElem is one element of a path that is still to be walked.
type pathElem struct {
	name     string
	fromLink bool // it came out of a symbolic link
}

func splitPath(path string, link bool) []pathElem {
	var list []pathElem
	for e := range strings.SplitSeq(path, "/") {
		if e != "" && e != "." {
			list = append(list, pathElem{e, link})
		}
	}
	return list
}

// resolve finds where path leads. The path is in the form that drivers get.
func (walker *pathWalker) resolve(path string, mode resolveMode) (resolved, error) {
	todo := splitPath(path, false)
	first, err := walker.lookupElems(rootIno, path, todo)
	if err != nil {
		return resolved{}, err
	}
	if len(first) == 0 {
		return resolved{}, driver.ErrNotFound // no root: the volume is being removed
	}
	dirs := []inode{first[0]}
	got := first[1:]
	links := 0
	for len(todo) > 0 {
		s, last := todo[0], len(todo) == 1
		if len(s.name) > driver.MaxElemLen {
			return resolved{}, driver.Errorf(driver.ErrInvalid, "%q leads through a symbolic link with an element of %d bytes; the most is %d", path, len(s.name), driver.MaxElemLen)
		}
		if s.name == ".." {
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
			if len(got) == 0 { // gone meanwhile
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
			return resolvedAt(dirs, s.name, &n), nil
		case n.isDir():
			// No more of got, and another name to come: the chain ended there, for it is missing.
			dirs = append(dirs, n)
		default:
			return resolved{}, driver.ErrNotDir
		}
	}
	// The root, or what a link with dots at its end leads to.
	top := dirs[len(dirs)-1]
	return resolved{parent: top, node: &top, ancestors: inodeNumbers(dirs)}, nil
}

func pathEscapeError(path string) error {
	return driver.Errorf(driver.ErrPathEscape, "%q leads through a symbolic link out of the volume", path)
}

func resolvedAt(dirs []inode, name string, n *inode) resolved {
	return resolved{parent: dirs[len(dirs)-1], name: name, node: n, ancestors: inodeNumbers(dirs)}
}

// resolveMissing is what resolve returns when the next step leads nowhere.
func resolveMissing(dirs []inode, todo []pathElem, mode resolveMode) (resolved, error) {
	if len(todo) == 1 {
		return resolvedAt(dirs, todo[0].name, nil), nil
	}
	if !mode.allowMissingParents {
		return resolved{}, driver.ErrNotExist
	}
	p := resolvedAt(dirs, todo[len(todo)-1].name, nil)
	for _, s := range todo[:len(todo)-1] {
		if s.fromLink || s.name == ".." {
			return resolved{}, driver.ErrNotExist
		}
		p.missingDirs = append(p.missingDirs, s.name)
	}
	return p, nil
}

func inodeNumbers(dirs []inode) []int64 {
	list := make([]int64, len(dirs))
	for i, d := range dirs {
		list[i] = d.ino
	}
	return list
}

// lookupElems returns the inode of a directory and of what lies along the next steps, as
// far as there is something and the steps are names.
func (walker *pathWalker) lookupElems(ino int64, path string, todo []pathElem) ([]inode, error) {
	if path != "" && ino == rootIno {
		if c, ok := walker.prefetched[path]; ok {
			return c, nil
		}
	}
	var names []string
	for _, s := range todo {
		if s.name == ".." {
			break
		}
		names = append(names, s.name)
	}
	return walker.lookupPath(walker.run, walker.vol, ino, names)
}
