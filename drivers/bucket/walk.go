package bucket

import (
	"slices"
	"strings"

	"github.com/volehq/vole/driver"
)

// maxLinks is how many symbolic links one path may lead through, as in Linux.
const maxLinks = 40

// runner runs queries, in a transaction or outside of one.
type runner func(list ...query) error

// place is where a path leads: a name in a directory, and what is there.
type place struct {
	parent inode
	name   string
	node   *inode // nil: nothing is there
	// missing are directories between parent and name that are still to be made.
	missing []string
	// above are the inodes of the directories from the root down to parent.
	above []int64
}

// how says how the last element of a path is treated, and missing ones before it.
type how struct {
	follow  bool // a symbolic link is followed
	parents bool // missing parents are what place.missing is for
}

// walker resolves paths of one volume. No path leads out of it: "..", where links
// have it, ends at the root with an error, and so do absolute targets.
type walker struct {
	vol   []byte
	run   runner
	chain func(run runner, vol []byte, from int64, names []string) ([]inode, error)
	// ready has chains from the root that were asked for beforehand, by path.
	ready map[string][]inode
}

// step is one element of a path that is still to be walked.
type step struct {
	name string
	link bool // it came out of a symbolic link
}

func steps(path string, link bool) []step {
	var list []step
	for e := range strings.SplitSeq(path, "/") {
		if e != "" && e != "." {
			list = append(list, step{e, link})
		}
	}
	return list
}

// resolve finds where path leads. The path is in the form that drivers get.
func (w *walker) resolve(path string, h how) (place, error) {
	todo := steps(path, false)
	first, err := w.from(rootIno, path, todo)
	if err != nil {
		return place{}, err
	}
	if len(first) == 0 {
		return place{}, driver.ErrNotFound // no root: the volume is being removed
	}
	dirs := []inode{first[0]}
	got := first[1:]
	links := 0
	for len(todo) > 0 {
		s, last := todo[0], len(todo) == 1
		if len(s.name) > driver.MaxElemLen {
			return place{}, driver.Errorf(driver.ErrInvalid, "%q leads through a symbolic link with an element of %d bytes; the most is %d", path, len(s.name), driver.MaxElemLen)
		}
		if s.name == ".." {
			if len(dirs) == 1 {
				return place{}, escapes(path)
			}
			dirs, todo, got = dirs[:len(dirs)-1], todo[1:], nil
			continue
		}
		if got == nil {
			if got, err = w.from(dirs[len(dirs)-1].ino, "", todo); err != nil {
				return place{}, err
			}
			if len(got) == 0 { // gone meanwhile
				return place{}, driver.ErrNotExist
			}
			got = got[1:]
		}
		if len(got) == 0 {
			return missing(dirs, todo, h)
		}
		n := got[0]
		got = got[1:]
		todo = todo[1:]
		switch {
		case n.isLink() && (!last || h.follow):
			if links++; links > maxLinks {
				return place{}, driver.ErrLoop
			}
			target := string(n.target)
			if strings.HasPrefix(target, "/") {
				return place{}, escapes(path)
			}
			todo, got = slices.Concat(steps(target, true), todo), nil
		case last:
			return at(dirs, s.name, &n), nil
		case n.isDir():
			// No more of got, and another name to come: the chain ended there, for it is missing.
			dirs = append(dirs, n)
		default:
			return place{}, driver.ErrNotDir
		}
	}
	// The root, or what a link with dots at its end leads to.
	top := dirs[len(dirs)-1]
	return place{parent: top, node: &top, above: inos(dirs)}, nil
}

func escapes(path string) error {
	return driver.Errorf(driver.ErrPathEscape, "%q leads through a symbolic link out of the volume", path)
}

func at(dirs []inode, name string, n *inode) place {
	return place{parent: dirs[len(dirs)-1], name: name, node: n, above: inos(dirs)}
}

// missing is what resolve returns when the next step leads nowhere.
func missing(dirs []inode, todo []step, h how) (place, error) {
	if len(todo) == 1 {
		return at(dirs, todo[0].name, nil), nil
	}
	if !h.parents {
		return place{}, driver.ErrNotExist
	}
	p := at(dirs, todo[len(todo)-1].name, nil)
	for _, s := range todo[:len(todo)-1] {
		if s.link || s.name == ".." {
			return place{}, driver.ErrNotExist
		}
		p.missing = append(p.missing, s.name)
	}
	return p, nil
}

func inos(dirs []inode) []int64 {
	list := make([]int64, len(dirs))
	for i, d := range dirs {
		list[i] = d.ino
	}
	return list
}

// from returns the inode of a directory and of what lies along the next steps, as
// far as there is something and the steps are names.
func (w *walker) from(ino int64, path string, todo []step) ([]inode, error) {
	if path != "" && ino == rootIno {
		if c, ok := w.ready[path]; ok {
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
	return w.chain(w.run, w.vol, ino, names)
}
