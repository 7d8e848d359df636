package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/ext4"
)

// imageJSON is what the file system in an image says of itself.
type imageJSON struct {
	Label      string    `json:"label"`
	UUID       string    `json:"uuid"`
	Features   []string  `json:"features"`
	ImageSize  vole.Size `json:"image_size"`
	Size       vole.Size `json:"size"`
	Free       vole.Size `json:"free"`
	Reserved   vole.Size `json:"reserved"`
	BlockSize  vole.Size `json:"block_size"`
	Groups     int64     `json:"groups"`
	GroupSize  vole.Size `json:"group_size"`
	InodeSize  vole.Size `json:"inode_size"`
	Inodes     int64     `json:"inodes"`
	FreeInodes int64     `json:"free_inodes"`
	Journal    vole.Size `json:"journal"`
	Dirty      bool      `json:"dirty"`
	Errors     bool      `json:"errors"`
	Mounts     int64     `json:"mounts"`
	MountedOn  string    `json:"mounted_on,omitempty"`
	Created    time.Time `json:"created,omitzero"`
	Mounted    time.Time `json:"mounted,omitzero"`
	Written    time.Time `json:"written,omitzero"`
	Checked    time.Time `json:"checked,omitzero"`
}

func newDiskDumpCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "dump IMAGE",
		Short: "Show what a file system in an image says of itself",
		Long: `Show the superblock of the ext4 file system in a file: name, sizes, features, what is
free, and the state of its log, as 'dumpe2fs -h' does.`,
		Example: `  vole disk dump rootfs.ext4
  vole disk dump rootfs.ext4 --json | jq .dirty`,
		Args:              exactArgs(1, "the image"),
		ValidArgsFunction: completeInTurn(completeFiles),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := a.openImage("dump", args[0], false)
			if err != nil {
				return err
			}
			d, err := ext4.Describe(f, 0)
			if err != nil {
				return wrapImageError("dump", args[0], notExt4FileError(args[0], f, err))
			}
			st, err := f.Stat()
			if err != nil {
				return err
			}
			return a.printDescription(newImageJSON(d, st.Size()))
		},
	}
}

// newImageJSON is a description of an image of size bytes, as it is printed.
func newImageJSON(d ext4.Description, size int64) imageJSON {
	return imageJSON{
		Label: d.Label, UUID: uuid.UUID(d.UUID).String(), Features: d.Features,
		ImageSize: vole.Size(size), Size: vole.Size(d.Size), Free: vole.Size(d.Free), Reserved: vole.Size(d.Reserved),
		BlockSize: vole.Size(d.BlockSize), Groups: d.Groups, GroupSize: vole.Size(d.GroupSize),
		InodeSize: vole.Size(d.InodeSize), Inodes: d.Inodes, FreeInodes: d.FreeInodes,
		Journal: vole.Size(d.Journal), Dirty: d.Dirty, Errors: d.Errors, Mounts: d.Mounts, MountedOn: d.MountedOn,
		Created: d.Created, Mounted: d.Mounted, Written: d.Written, Checked: d.Checked,
	}
}

// printDescription prints what a superblock says, one item a line.
func (a *app) printDescription(j imageJSON) error {
	if a.json {
		return a.printJSON(j)
	}
	t := a.newTable()
	row := func(k, format string, args ...any) { t.addRow(k+":", fmt.Sprintf(format, args...)) }
	when := func(k string, at time.Time) {
		if !at.IsZero() {
			row(k, "%s", a.formatTime(at))
		}
	}
	row("Label", "%s", j.Label)
	row("UUID", "%s", j.UUID)
	row("Features", "%s", strings.Join(j.Features, " "))
	row("Image", "%s", a.sizeInText(j.ImageSize))
	row("Size", "%s, blocks of %s", a.sizeInText(j.Size), a.sizeInText(j.BlockSize))
	row("Free", "%s, %s of it for root", a.sizeInText(j.Free), a.sizeInText(j.Reserved))
	row("Groups", "%d of %s", j.Groups, a.sizeInText(j.GroupSize))
	row("Inodes", "%d of %s, %d free", j.Inodes, a.sizeInText(j.InodeSize), j.FreeInodes)
	switch {
	case j.Journal == 0:
		row("Log", "none")
	case j.Dirty:
		row("Log", "%s, to be replayed", a.sizeInText(j.Journal))
	default:
		row("Log", "%s, clean", a.sizeInText(j.Journal))
	}
	if j.Errors {
		row("Errors", "Linux found some; run 'vole disk check'")
	}
	when("Created", j.Created)
	when("Mounted", j.Mounted)
	when("Written", j.Written)
	when("Checked", j.Checked)
	if j.MountedOn != "" {
		row("Mounted on", "%s", j.MountedOn)
	}
	return t.close()
}
