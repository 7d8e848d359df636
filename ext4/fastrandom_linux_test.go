//go:build linux

package ext4_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/testing/ext4oracle"
)

var (
	fastSeedCount = flag.Uint64("fastcommit.seeds", 4, "seeds of TestReplayRandomFastCommits")
	fastFirstSeed = flag.Uint64("fastcommit.seed", 0, "first seed of TestReplayRandomFastCommits")
)

// TestReplayRandomFastCommits compares what is replayed of fast commits that the kernel makes
// of random changes.
func TestReplayRandomFastCommits(t *testing.T) {
	t.Parallel()
	for k := range *fastSeedCount {
		seed := *fastFirstSeed + k
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := &fastWork{rnd: rand.New(rand.NewPCG(seed, 2)), dirs: []string{"", "x/", "y/"}, moreDirs: seed%4 >= 2}
			var live ext4oracle.Tree
			image := buildFastImage(t, fastScene{
				mke2fs: [][]string{nil, {"-b", "1024"}}[seed%2],
				before: func(d fastDir) {
					for _, dir := range []string{"x", "y"} {
						d.mkdir(dir)
					}
					w.doRandomChanges(d, 60)
				},
				act: func(d fastDir) {
					w.doRandomChanges(d, 80)
					d.writeFile("last", 1) // commits all names, whatever is not written yet of files
					live = namesOnly(d.readTree())
				},
			})
			fs := openImageFile(t, image, ext4.OpenOptions{ReadOnly: true})
			expectSameTree(t, "names", live, namesOnly(readTreeOf(t, fs)), ext4oracle.SameContent)
			if err := fs.Close(); err != nil {
				t.Error(err)
			}
			testFastReplay(t, image, expectedRandomTree(t, image), false)
		})
	}
}

// expectedRandomTree returns what the kernel replays of an image; nil: that need not be right,
// and what this package replays has to be sound only.
func expectedRandomTree(t *testing.T, image string) ext4oracle.Tree {
	t.Helper()
	recovered, err := ext4oracle.RecoverCopy(t, image)
	if err != nil {
		t.Log(err) // Linux refuses some of what it logs
		return nil
	}
	if clean, said := ext4oracle.FsckStatus(recovered); !clean {
		t.Logf("what the kernel replays has errors: %s", said)
		return nil
	}
	if hasOrphans(t, image) {
		t.Log("the last transaction has orphans: the kernel mixes them up with files that get their numbers")
		return nil
	}
	return ext4oracle.Snapshot(t, recovered)
}

// namesOnly returns what the names in a tree, and the kinds and links of the files, are.
func namesOnly(tree ext4oracle.Tree) ext4oracle.Tree {
	names := ext4oracle.Tree{}
	for name, n := range tree {
		names[name] = &ext4oracle.Node{Mode: n.Mode, Nlink: n.Nlink, Ino: n.Ino}
	}
	return names
}

// hasOrphans reports whether an image has orphans before its fast commits.
func hasOrphans(t *testing.T, image string) bool {
	t.Helper()
	fs := openImageFile(t, withoutFastCommits(t, image), ext4.OpenOptions{ReadOnly: true})
	defer fs.Close()
	return fs.HasOrphans()
}

// fastWork changes a tree at random.
type fastWork struct {
	rnd      *rand.Rand
	files    []string
	dirs     []string // with a slash behind
	moreDirs bool     // make and remove directories, of which the kernel replays few without errors
	made     int
}

func (w *fastWork) newName() string {
	w.made++
	return fmt.Sprintf("%sf%d", w.dirs[w.rnd.IntN(len(w.dirs))], w.made)
}

func (w *fastWork) doRandomChanges(d fastDir, n int) {
	d.t.Helper()
	for range n {
		if len(w.files) < 3 || w.rnd.IntN(4) == 0 {
			name := w.newName()
			d.failOnError(os.WriteFile(d.fullPath(name), make([]byte, w.rnd.IntN(30000)), 0o644))
			w.files = append(w.files, name)
			continue
		}
		if w.moreDirs && w.rnd.IntN(6) == 0 {
			w.changeDirs(d)
		}
		w.changeFile(d, w.rnd.IntN(len(w.files)))
		if len(w.files) > 0 && w.rnd.IntN(4) == 0 {
			d.fsyncFile(w.files[w.rnd.IntN(len(w.files))])
		}
	}
}

// changeDirs makes a directory, or removes one if it is empty.
func (w *fastWork) changeDirs(d fastDir) {
	d.t.Helper()
	k := w.rnd.IntN(len(w.dirs))
	if k < 3 || w.rnd.IntN(2) == 0 {
		w.made++
		dir := fmt.Sprintf("%sd%d", w.dirs[k], w.made)
		d.mkdir(dir)
		w.dirs = append(w.dirs, dir+"/")
		return
	}
	if err := os.Remove(d.fullPath(w.dirs[k])); err == nil {
		w.dirs = slices.Delete(w.dirs, k, k+1)
	} else if !errors.Is(err, unix.ENOTEMPTY) {
		d.failOnError(err)
	}
}

func (w *fastWork) forgetFile(k int) { w.files = append(w.files[:k:k], w.files[k+1:]...) }

// changeFile changes one file.
func (w *fastWork) changeFile(d fastDir, k int) {
	d.t.Helper()
	name, off := d.fullPath(w.files[k]), int64(w.rnd.IntN(200000))
	switch w.rnd.IntN(8) {
	case 0:
		d.failOnError(os.Remove(name))
		w.forgetFile(k)
	case 1:
		to := w.newName()
		d.failOnError(os.Rename(name, d.fullPath(to)))
		w.files[k] = to
	case 2:
		if o := w.rnd.IntN(len(w.files)); o != k {
			d.failOnError(os.Rename(name, d.fullPath(w.files[o])))
			w.forgetFile(k)
		}
	case 3:
		to := w.newName()
		d.failOnError(os.Link(name, d.fullPath(to)))
		w.files = append(w.files, to)
	case 4:
		d.failOnError(os.Truncate(name, off))
	case 5, 6:
		d.writeAt(w.files[k], off, w.rnd.IntN(20000))
	case 7:
		d.punch(w.files[k], uint32(w.rnd.IntN(2))*(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE), off, 1+int64(w.rnd.IntN(50000)))
	}
}
