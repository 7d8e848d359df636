package transfer

import (
	"hash/maphash"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// Whiteouts of the OCI image specification.
// https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts
const (
	whiteoutPrefix   = ".wh."
	opaqueWhiteout   = ".wh..wh..opq"
	reservedWhiteout = ".wh..wh."
)

// pathSet is a set of paths that takes the same memory for each, however long: it keeps
// their hashes. The seed is random, so that no image can make two paths collide.
type pathSet struct {
	seed   maphash.Seed
	hashes map[uint64]struct{}
}

func newPathSet() pathSet { return pathSet{maphash.MakeSeed(), map[uint64]struct{}{}} }

func (s pathSet) addPath(p string) { s.hashes[maphash.String(s.seed, p)] = struct{}{} }

func (s pathSet) hasPath(p string) bool {
	_, ok := s.hashes[maphash.String(s.seed, p)]
	return ok
}

// markOwn remembers that full, and so its parents, are of this layer.
func (l *Layers) markOwn(full string) {
	for p := full; p != "." && !l.own.hasPath(p); p = path.Dir(p) {
		l.own.addPath(p)
	}
}

// applyWhiteout removes what a whiteout in dir hides: one name of lower layers, or all.
func (l *Layers) applyWhiteout(dir, base string) error {
	l.forgetParent()
	if base == opaqueWhiteout {
		return l.removeLower(dir)
	}
	hidden := strings.TrimPrefix(base, whiteoutPrefix)
	if hidden == "" || hidden == "." || hidden == ".." {
		return driver.Errorf(vole.ErrCorrupt, "a whiteout of nothing")
	}
	if strings.HasPrefix(base, reservedWhiteout) {
		return nil // other names that the specification reserves
	}
	if full := path.Join(dir, hidden); !l.own.hasPath(full) {
		return l.tree.root.RemoveAll(full)
	}
	return nil
}

// removeLower removes from dir what lower layers put there. A directory is cleared once per
// layer, however often the layer says that it is opaque.
func (l *Layers) removeLower(dir string) error {
	if l.cleared.hasPath(dir) {
		return nil
	}
	l.cleared.addPath(dir)
	list, err := readRootDir(l.tree.root, dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		full := path.Join(dir, e.Name())
		if err := l.countLookup(full); err != nil {
			return err
		}
		switch {
		case !l.own.hasPath(full):
			err = l.tree.root.RemoveAll(full)
		case e.IsDir():
			err = l.removeLower(full)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func readRootDir(root *os.Root, dir string) ([]fs.DirEntry, error) {
	f, err := root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.ReadDir(-1)
}
