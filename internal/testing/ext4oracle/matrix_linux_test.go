package ext4oracle

import (
	"flag"
	"os"
	"testing"
)

// all makes the tests go through all recipes, which takes a while.
var all = flag.Bool("oracle.all", false, "build all images of Matrix, Extra and DirtyImages")

func TestBuild(t *testing.T) {
	RequireRoot(t)
	recipes := Matrix[1:2]
	if *all {
		recipes = append(append([]Recipe(nil), Matrix...), Extra...)
	}
	for _, r := range recipes {
		t.Run(r.Name, func(t *testing.T) {
			image, tree := Build(t, r)
			Fsck(t, image)
			again := Snapshot(t, image)
			for _, d := range Diff(tree, again, SameImage) {
				t.Error("two snapshots differ: ", d)
			}
			info, err := os.Stat(image)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d files, image of %d bytes", len(tree), info.Size())
		})
	}
}
