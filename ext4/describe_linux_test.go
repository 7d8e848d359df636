package ext4

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestDescribe(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 256 << 20
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	created := time.Date(2040, 2, 3, 4, 5, 6, 0, time.UTC) // beyond 32 bits
	opts := FormatOptions{Label: "a label", UUID: [16]byte{1, 2, 3}, Time: created, Reserved: 1 << 20}
	if _, err := Format(f, size, opts); err != nil {
		t.Fatal(err)
	}
	d, err := Describe(f, 0)
	if err != nil {
		t.Fatal(err)
	}
	if d.Label != "a label" || d.UUID != opts.UUID || d.Size != size || d.BlockSize != 4096 || d.Groups != 2 ||
		d.GroupSize != 128<<20 || d.InodeSize != 256 || d.Reserved != 1<<20 || d.Journal == 0 || d.Dirty || d.Errors ||
		!d.Created.Equal(created) || !d.Mounted.IsZero() || d.Mounts != 0 || d.MountedOn != "" {
		t.Errorf("%+v", d)
	}
	if !slices.Contains(d.Features, "has_journal") || !slices.Contains(d.Features, "extent") || !slices.Contains(d.Features, "metadata_csum") {
		t.Errorf("features %v", d.Features)
	}
	if _, err := Describe(f, size/2); !isCorrupt(err) {
		t.Errorf("of half an image: %v", err)
	}
}

// dumpe2fs tells the same.
func TestDescribeAgrees(t *testing.T) {
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		t.Skip("mkfs.ext4 is not installed")
	}
	name := filepath.Join(t.TempDir(), "image")
	if out, err := exec.Command(mkfs, "-q", "-b", "1024", "-J", "size=4", "-L", "small", name, "32M").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := Describe(f, 0)
	if err != nil {
		t.Fatal(err)
	}
	if d.Journal != 4<<20 || d.BlockSize != 1024 || d.Size != 32<<20 || d.Label != "small" || time.Since(d.Created) > time.Hour {
		t.Errorf("%+v", d)
	}
	out, err := exec.Command("dumpe2fs", "-h", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if rest, ok := strings.CutPrefix(line, "Filesystem features:"); ok {
			want := strings.Fields(rest)
			slices.Sort(want)
			got := slices.Sorted(slices.Values(d.Features))
			if !slices.Equal(got, want) {
				t.Errorf("features %v, want %v", got, want)
			}
		}
	}
}
