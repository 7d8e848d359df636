//go:build linux

package ext4_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/testing/ext4oracle"
)

func sceneNamed(name string) fastScene {
	return fastScenes[slices.IndexFunc(fastScenes, func(s fastScene) bool { return s.name == name })]
}

// TestFastCommitsCutAndDamaged cuts and damages fast commits of one block and of several: the
// kernel replays those before the damage, or refuses all.
func TestFastCommitsCutAndDamaged(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"many commits", "many"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image, _ := buildSoundFastImage(t, sceneNamed(name))
			blocks := fastBlockOffsets(t, image)
			n := len(blocks)
			if n < 2 {
				t.Skip(kernelRelease(), "makes fast commits of", n, "blocks of it")
			}
			content, err := os.ReadFile(image)
			if err != nil {
				t.Fatal(err)
			}
			seen := map[string]bool{}
			for _, k := range slices.Compact([]int{0, 1, n / 2, n - 1}) {
				block := content[blocks[k]:][:1024]
				flipped := bytes.Clone(block)
				flipped[40] ^= 1
				longer := bytes.Clone(block)
				longer[3] = 0xff // the first tag is longer than the block
				for what, b := range map[string][]byte{"cut": make([]byte, 1024), "flipped": flipped, "longer": longer} {
					what = fmt.Sprintf("%s in block %d of %d", what, k, n)
					damaged := filepath.Join(t.TempDir(), "damaged")
					if err := ext4oracle.CopyImage(damaged, image); err != nil {
						t.Fatal(err)
					}
					overwrite(t, damaged, b, blocks[k])
					seen[expectLikeKernel(t, what, damaged)] = true
				}
			}
			if !seen["replayed"] || !seen["refused"] {
				t.Errorf("what was damaged is %v only", seen)
			}
		})
	}
}

// Fast commits are refused while they are to be replayed where names or blocks cannot be
// changed, and nothing of them is applied.
func TestFastCommitsRefused(t *testing.T) {
	t.Parallel()
	for _, feature := range []string{"bigalloc", "inline_data", "^extent,^64bit"} {
		t.Run(feature, func(t *testing.T) {
			t.Parallel()
			image := buildFastImage(t, fastScene{
				mke2fs: []string{"-O", "fast_commit," + feature},
				act:    func(d fastDir) { d.writeFile("a", 50); d.writeFile("b", 10000); d.writeFile("c", 1) },
			})
			before := hashFile(t, image)
			expectRefusal(t, image, ext4.ErrUnsupported)
			if hashFile(t, image) != before {
				t.Error("something was applied")
			}
		})
	}
}

// expectLikeKernel compares what is replayed of an image, and whether it is, with what the
// kernel does.
func expectLikeKernel(t *testing.T, what, image string) string {
	t.Helper()
	before := hashFile(t, image)
	recovered, err := ext4oracle.RecoverCopy(t, image)
	if err != nil {
		expectRefusal(t, image, ext4.ErrCorrupt)
		if hashFile(t, image) != before {
			t.Errorf("%s: something was applied", what)
		}
		return "refused"
	}
	want := ext4oracle.Snapshot(t, recovered)
	fs := openImageFile(t, image, ext4.OpenOptions{ReadOnly: true})
	expectSameTree(t, what, dirTimesAside(want), dirTimesAside(readTreeOf(t, fs)), ext4oracle.DiffOptions{LostFound: true})
	if err := fs.Close(); err != nil {
		t.Error(err)
	}
	return "replayed"
}
