package transfer

import (
	"context"
	"errors"
	"path"
	"sync"

	"github.com/volehq/vole"
)

// keepsSystemAttrs reports whether the target keeps capabilities and access lists, as they are at
// the source.
func (t *volumeTarget) keepsSystemAttrs() bool {
	return t.opts.Owner && t.f.Volume().Info().Kind == vole.KindDisk
}

// inheritedLists remembers whether the directory that was used last gives an access list to
// what is made in it.
type inheritedLists struct {
	mu    sync.Mutex
	dir   string // "": none is remembered
	gives bool
}

func (h *inheritedLists) forgetDir() {
	h.mu.Lock()
	h.dir = ""
	h.mu.Unlock()
}

// removeInheritedLists removes from the new entry p the access lists that it has inherited from
// its directory, where lists are kept: then it grants the same rights as at the source, and
// not more. Without -a inherited lists stay, as with cp.
func (t *volumeTarget) removeInheritedLists(ctx context.Context, p string, lists ...string) error {
	if !t.keepsSystemAttrs() {
		return nil
	}
	h := &t.inherited
	h.mu.Lock()
	defer h.mu.Unlock()
	if dir := path.Dir(p); h.dir != dir {
		_, err := t.f.Getxattr(ctx, dir, defaultACL)
		if err != nil && !errors.Is(err, vole.ErrNoXattr) {
			return err
		}
		h.dir, h.gives = dir, err == nil
	}
	if !h.gives {
		return nil
	}
	for _, list := range lists {
		if err := t.f.Removexattr(ctx, p, list); err != nil && !errors.Is(err, vole.ErrNoXattr) {
			return err
		}
	}
	return nil
}
