package sandbox

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// What a runtime mounts again has the attributes that the helper's mount has.
func TestTreeMountSpec(t *testing.T) {
	for _, c := range []struct {
		m    treeMount
		want []string
	}{
		{treeMount{source: "/s", attr: unix.MOUNT_ATTR_NODEV, volume: true}, []string{"rbind", "rprivate", "rw", "nodev"}},
		{treeMount{source: "/s", attr: closedAttr, file: true}, []string{"rbind", "rprivate", "ro", "nosuid", "nodev", "noexec"}},
		{planMemoryMounts(false)[0], []string{"rw", "nosuid", "nodev", "mode=1777", "size=1g"}},
	} {
		if got := c.m.runtimeMount().Options; !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q, want %q", c.m, got, c.want)
		}
	}
}
