// Package pathwalk resolves a path element by element, as the kernel does, over anything
// that can look up a name in a directory and read a link. It is for trees whose links must
// not be left to the kernel, because they mean something else there (those of an image are
// absolute from the image's root), or because nothing of the kernel knows the tree.
//
// The rules are those of path_resolution(7): an element that follows one which is no
// directory is an error, also an empty one or "."; ".." is the directory that the walk came
// from, never a shortening of the path as text; more than MaxLinks links are a loop.
package pathwalk

import (
	"slices"
	"strings"

	"github.com/volehq/vole/driver"
)

// MaxLinks is how many symbolic links a path may lead through: as many as Linux follows.
const MaxLinks = 40

// Kind is what Lookup found.
type Kind int

// The kinds of entries that a walk tells apart.
const (
	Directory Kind = iota
	Link           // a symbolic link, which the walk follows
	Other          // neither: only the last element of a path may be one
	Missing        // does not exist; the walk goes on with the names beneath it
)

// Step is one element of a path, about to be looked up. It is never "", "." or "..".
type Step struct {
	Name   string
	Last   bool // nothing but "." and empty elements follow
	InLink bool // it is of a link's target, not of the path as it was given
}

// Walker says what a walk works on, and its rules. N stands for an entry of the tree: a
// path, a node in memory, an open file.
type Walker[N any] struct {
	// Lookup finds an entry of a directory. Its errors end the walk, so an implementation
	// returns an error for what does not exist, unless the caller wants Missing.
	Lookup func(dir N, s Step) (N, Kind, error)
	// Readlink returns the target of what Lookup said is a Link.
	Readlink func(link N) (string, error)
	// Release is called with each entry that Lookup returned and Walk does not return.
	// nil: entries need no release.
	Release func(n N)
	// Chroot makes the root of the walk the "/" of absolute targets, and its own parent.
	// Without it, an absolute target and a ".." in the root are ErrPathEscape.
	Chroot bool
	// KeepLast returns a link that is the last element instead of following it. With a "/"
	// or "/." behind it, it is followed, as by lstat(2).
	KeepLast bool
}

// Walk resolves p from root on, whether it begins with "/" or not. It returns the entries
// from root to the one that p leads to: each is in the one before it, and none is a link,
// but the last with KeepLast. When it fails, all of them but root have been released.
// Errors of its own match driver's ErrNotDir, ErrNotExist, ErrLoop and ErrPathEscape.
func (w *Walker[N]) Walk(root N, p string) ([]N, error) {
	r := run[N]{walker: w, entries: []entry[N]{{root, Directory}}}
	r.prependPath(p, false)
	if err := r.resolvePending(); err != nil {
		r.releaseBeyond(1)
		return nil, err
	}
	nodes := make([]N, len(r.entries))
	for i, e := range r.entries {
		nodes[i] = e.node
	}
	return nodes, nil
}

// entry is a node on the way from the root to where a walk is.
type entry[N any] struct {
	node N
	kind Kind
}

// element is a part of a path between slashes, still to be resolved.
type element struct {
	name   string
	inLink bool
}

// run is one walk: entries lead from the root to where it is, and pending is what is left of
// the path, with the targets of links in the place of the links.
type run[N any] struct {
	walker  *Walker[N]
	entries []entry[N]
	pending []element
	links   int
}

// prependPath puts the elements of p before those that are pending.
func (r *run[N]) prependPath(p string, inLink bool) {
	names := strings.Split(p, "/")
	pending := make([]element, 0, len(names)+len(r.pending))
	for _, name := range names {
		pending = append(pending, element{name, inLink})
	}
	r.pending = append(pending, r.pending...)
}

// releaseBeyond goes back up until n entries are left.
func (r *run[N]) releaseBeyond(n int) {
	if release := r.walker.Release; release != nil {
		for _, e := range r.entries[n:] {
			release(e.node)
		}
	}
	r.entries = r.entries[:n]
}

// resolvePending resolves the pending elements one after the other.
func (r *run[N]) resolvePending() error {
	for len(r.pending) > 0 {
		next := r.pending[0]
		kind := r.entries[len(r.entries)-1].kind
		if kind == Other {
			return driver.ErrNotDir
		}
		r.pending = r.pending[1:]
		var err error
		switch {
		case next.name == "" || next.name == ".":
		case next.name == ".." && kind == Missing:
			err = driver.ErrNotExist // what does not exist has no parent
		case next.name == "..":
			err = r.enterParent()
		default:
			err = r.enterElement(next)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// enterParent goes to the parent of the directory reached so far.
func (r *run[N]) enterParent() error {
	switch {
	case len(r.entries) > 1:
		r.releaseBeyond(len(r.entries) - 1)
	case !r.walker.Chroot:
		return driver.ErrPathEscape
	}
	return nil
}

// enterElement looks up one element in the directory reached so far, and follows a link.
func (r *run[N]) enterElement(el element) error {
	dir := r.entries[len(r.entries)-1].node
	n, kind, err := r.walker.Lookup(dir, Step{Name: el.name, Last: r.isLastName(), InLink: el.inLink})
	if err != nil {
		return err
	}
	if kind != Link || r.walker.KeepLast && len(r.pending) == 0 {
		r.entries = append(r.entries, entry[N]{n, kind})
		return nil
	}
	if r.walker.Release != nil {
		defer r.walker.Release(n)
	}
	return r.followLink(n)
}

// isLastName reports whether no name is pending.
func (r *run[N]) isLastName() bool {
	return !slices.ContainsFunc(r.pending, func(el element) bool { return el.name != "" && el.name != "." })
}

// followLink puts the target of a link in its place.
func (r *run[N]) followLink(link N) error {
	if r.links++; r.links > MaxLinks {
		return driver.ErrLoop
	}
	target, err := r.walker.Readlink(link)
	if err != nil {
		return err
	}
	if strings.HasPrefix(target, "/") {
		if !r.walker.Chroot {
			return driver.ErrPathEscape
		}
		r.releaseBeyond(1)
	}
	r.prependPath(target, true)
	return nil
}
