package main

import (
	"errors"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/ext4"
)

// problemJSON is an inconsistency of an image.
type problemJSON struct {
	Code   string `json:"code"`
	Inode  uint32 `json:"inode,omitempty"`
	Block  uint64 `json:"block,omitempty"`
	Group  *int64 `json:"group,omitempty"`
	Detail string `json:"detail"`
}

func newDiskCheckCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "check IMAGE",
		Short: "Look for inconsistencies of a file system in an image",
		Long: `Look through the ext4 file system in a file for inconsistencies, as 'e2fsck -fn' does,
and print each. A journal that a crash left is taken as replayed. Nothing is changed:
e2fsck repairs. The exit code is 9 when something is wrong. Flaws that Linux accepts and
e2fsck does not fail for, such as old counts in the superblock, are printed all the same.
An interrupted grow is reported, but is no damage: Vole completes it when it writes to the
image next.`,
		Example: `  vole disk check rootfs.ext4
  vole disk check rootfs.ext4 --json | jq -r '.[].code'`,
		Args:              exactArgs(1, "the image"),
		ValidArgsFunction: completeInTurn(completeFiles),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.checkImageFile(cmd, args[0]) },
	}
}

// checkImageFile prints each problem of an image. It is an error when there is one that is not
// harmless; a growth that was cut off is only mentioned.
func (a *app) checkImageFile(cmd *cobra.Command, name string) error {
	f, err := a.openImage("check", name, false)
	if err != nil {
		return err
	}
	n, harmless := 0, 0
	arr := a.newJSONArray()
	err = ext4.Check(cmd.Context(), f, ext4.CheckOptions{}, func(p ext4.Problem) error {
		n++
		if p.Harmless() {
			harmless++
		}
		switch {
		case a.json:
			j := problemJSON{Code: p.Code, Inode: p.Inode, Block: p.Block, Detail: p.Detail}
			if p.Group >= 0 {
				j.Group = &p.Group
			}
			return arr.add(j)
		case a.quiet:
			return a.printf("%s\n", p.Code)
		}
		return a.printf("%v\n", p)
	})
	err = wrapImageError("check", name, notExt4FileError(name, f, err))
	if a.json {
		err = errors.Join(err, arr.close())
	}
	switch {
	case err != nil:
		return err
	case n > harmless:
		return &hinted{wrapImageError("check", name, driver.Errorf(vole.ErrCorrupt, "%d problems", n)), "'e2fsck -f " + name + "' repairs it"}
	}
	began, err := ext4.UnfinishedGrow(f)
	switch {
	case err != nil:
		return wrapImageError("check", name, err)
	case began && (a.json || a.quiet):
		a.warnf("%s: %s", name, unfinishedGrow)
		return nil
	case a.json || a.quiet:
		return nil
	case began:
		return a.printf("ok: %s\n", unfinishedGrow)
	case harmless > 0:
		return a.printf("ok: nothing else found, and this is no damage\n")
	}
	return a.printf("ok: nothing found\n")
}
