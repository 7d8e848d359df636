package ext4oracle

import (
	"encoding/binary"
	"path/filepath"
	"testing"
)

func TestBuildDirty(t *testing.T) {
	RequireRoot(t)
	for _, r := range DirtyImages {
		if !*all && r.Name != "orphan_file" && r.Name != "last-commit-missing" {
			continue
		}
		t.Run(r.Name, func(t *testing.T) {
			image, want := BuildDirty(t, r)
			j, err := openImageJournal(image)
			if err != nil {
				t.Fatal(err)
			}
			defer j.image.Close()
			t.Logf("%d commits, %d revokes, tree of %d", len(j.headersOfKind(logCommit)), len(j.headersOfKind(logRevoke)), len(want))
			if clean, _ := FsckStatus(image); clean {
				t.Error("e2fsck has nothing to say of an image that is to be recovered")
			}
			if want == nil {
				return
			}
			if r.Damage == NoDamage {
				scratch := filepath.Join(t.TempDir(), "scratch.img")
				if err := recoverCopyTo(t, scratch, image); err != nil {
					t.Fatal(err)
				}
				Fsck(t, scratch)
			}
			dir, err := TryMount(t, image, "ro", "noload")
			if err != nil {
				t.Log(err)
				return
			}
			stale, err := ReadTree(dir, ReadOptions{})
			if err == nil && Diff(stale, want, SameContent) == nil {
				t.Error("recovery changes nothing")
			}
			for _, path := range []string{"never-committed", "orphans/file1"} {
				if want[path] != nil {
					t.Error("the oracle shows ", path)
				}
			}
		})
	}
}

// TestRevokesMatter recovers an image whose revoke records were emptied.
func TestRevokesMatter(t *testing.T) {
	image, want := BuildDirty(t, DirtyRecipe{Name: "r", Mke2fs: []string{"-O", "^metadata_csum"}})
	j, err := openImageJournal(image)
	if err != nil {
		t.Fatal(err)
	}
	defer j.image.Close()
	revokes := j.headersOfKind(logRevoke)
	if len(revokes) == 0 {
		t.Fatal("no revoke records in the log")
	}
	for _, i := range revokes {
		count := binary.BigEndian.AppendUint32(nil, 16) // the header alone
		if _, err := j.image.WriteAt(count, j.headerBlocks[i].off+12); err != nil {
			t.Fatal(err)
		}
	}
	if d := Diff(want, Recovered(t, image), SameContent); d == nil {
		t.Error("the image is the same without its revoke records")
	} else {
		t.Log(d)
	}
}
