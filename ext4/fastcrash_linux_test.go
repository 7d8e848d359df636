//go:build linux

package ext4_test

import (
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/testing/ext4oracle"
)

// A crash while fast commits are replayed leaves either them or all that they change, to
// this package and to the kernel.
func TestCrashWhileFastCommitsAreReplayed(t *testing.T) {
	for _, name := range []string{"not in the log", "no checksums"} {
		t.Run(name, func(t *testing.T) {
			base, _ := buildSoundFastImage(t, sceneNamed(name))
			image := filepath.Join(t.TempDir(), "crash.raw")
			f := openCopy(t, image, base)
			defer f.Close()
			r := &recorder{File: f}
			fs, err := ext4.Open(r, ext4.OpenOptions{Size: 16 * mib})
			if err != nil {
				t.Fatal(err)
			}
			want := dirTimesAside(readTreeOf(t, fs))
			if err := fs.Close(); err != nil {
				t.Fatal(err)
			}
			rnd := rand.New(rand.NewPCG(1, 1))
			for i := range 24 {
				r.buildCrashState(t, image, base, rnd)
				if i%4 == 0 {
					expectSameTree(t, "to the kernel", want, dirTimesAside(ext4oracle.Recovered(t, image)), ext4oracle.DiffOptions{LostFound: true})
				}
				fs := openImageFile(t, image, ext4.OpenOptions{})
				expectSameTree(t, "after a crash", want, dirTimesAside(readTreeOf(t, fs)), ext4oracle.DiffOptions{LostFound: true})
				if err := fs.Close(); err != nil {
					t.Error(err)
				}
				ext4oracle.Fsck(t, image)
				if t.Failed() {
					t.Fatalf("state %d", i)
				}
			}
		})
	}
}
