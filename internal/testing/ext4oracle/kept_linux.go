package ext4oracle

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// keepDirectory names the directory of images that are made once and used by two tests.
const keepDirectory = "EXT4_ORACLE_KEEP"

// keptImage is an image for the second test that asks for it, and the tree that goes with it.
type keptImage struct {
	path string
	tree Tree
}

// kept holds the images of this process, by recipe.
var kept = struct {
	sync.Mutex
	images map[string]keptImage
}{images: map[string]keptImage{}}

// makeOrTakeImage makes an image at a path, or takes the one that was kept when it was made
// before: making one takes seconds, and reading and checking what Linux wrote are different
// tests. Each is kept until it is taken once.
func makeOrTakeImage(t testing.TB, recipe any, image string, build func() Tree) Tree {
	t.Helper()
	key := fmt.Sprintf("%+v", recipe)
	kept.Lock()
	defer kept.Unlock()
	if k, ok := kept.images[key]; ok {
		delete(kept.images, key)
		if err := os.Rename(k.path, image); err != nil {
			t.Fatal(err)
		}
		return k.tree
	}
	tree := build()
	if dir := os.Getenv(keepDirectory); dir != "" && !t.Failed() {
		k := keptImage{filepath.Join(dir, fmt.Sprint(len(kept.images), "-", filepath.Base(image))), tree}
		if err := CopyImage(k.path, image); err != nil {
			t.Fatal(err)
		}
		kept.images[key] = k
	}
	return tree
}
