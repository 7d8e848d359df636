package sandbox

import (
	"cmp"
	"slices"
	"strings"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// formatMount is the spec of a volume that the mount makes, and that an existing one must meet.
func (m Mount) formatMount() vole.Spec {
	return vole.Spec{Kind: m.Kind, Quota: m.Quota, Capacity: m.Capacity}
}

// reserved are places of the sandbox that the runtime fills.
var reserved = []string{"/proc", "/sys", "/dev"}

// checkMounts normalizes mounts, refuses guest paths that are used twice or that the
// runtime needs, and returns them with parents before children.
func checkMounts(mounts []Mount) ([]Mount, error) {
	out := slices.Clone(mounts)
	seen := map[string]bool{}
	for i := range out {
		m := &out[i]
		if err := m.Normalize(); err != nil {
			return nil, err
		}
		if seen[m.Path] {
			return nil, driver.Errorf(vole.ErrInvalid, "guest path %q is mounted twice", m.Path)
		}
		seen[m.Path] = true
		for _, r := range reserved {
			if m.Path == r || strings.HasPrefix(m.Path, r+"/") {
				return nil, invalidMount(m.String(), "%s belongs to the sandbox itself", r)
			}
		}
		if m.StatVirt == StatVirtStrict {
			return nil, driver.Errorf(vole.ErrUnsupported,
				"mount %q: stat-virt=strict needs a FUSE mount, which sandboxes do not use yet; use relaxed or off", m)
		}
		if m.HostPerms != "" {
			return nil, driver.Errorf(vole.ErrUnsupported,
				"mount %q: host-perms needs a FUSE mount, which sandboxes do not use yet; leave it out", m)
		}
	}
	slices.SortStableFunc(out, func(a, b Mount) int {
		return cmp.Or(cmp.Compare(strings.Count(a.Path, "/"), strings.Count(b.Path, "/")), cmp.Compare(a.Path, b.Path))
	})
	return out, nil
}

// isBeneath reports whether p is dir or lies beneath it; both are clean.
func isBeneath(p, dir string) bool {
	return p == dir || dir == "/" || strings.HasPrefix(p, dir+"/")
}
