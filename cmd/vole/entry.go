package main

import (
	"context"
	"fmt"
	"io/fs"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/internal/filemode"
)

// entryJSON is a file of a volume as the fs commands print it.
type entryJSON struct {
	Path      string    `json:"path"` // absolute in the volume
	Name      string    `json:"name"`
	Type      string    `json:"type"` // file, directory, symlink, fifo, socket, char-device, block-device
	Mode      string    `json:"mode"` // four or five octal digits: permission, setuid, setgid, sticky
	Size      int64     `json:"size"`
	Allocated int64     `json:"allocated"`
	UID       uint32    `json:"uid"`
	GID       uint32    `json:"gid"`
	Nlink     uint64    `json:"nlink"`
	Inode     uint64    `json:"inode"`
	Rdev      uint64    `json:"rdev,omitempty"`
	Target    string    `json:"target,omitempty"` // of a symlink
	Atime     time.Time `json:"atime"`
	Mtime     time.Time `json:"mtime"`
	Ctime     time.Time `json:"ctime"`
}

// newEntryJSON describes the file at path p of f. A link's target is read.
func newEntryJSON(ctx context.Context, f *vole.FS, p string, e vole.Entry) (entryJSON, error) {
	p = absPath(p)
	j := entryJSON{
		Path: p, Name: baseName(p), Type: filemode.TypeName(e.Mode), Mode: fmt.Sprintf("%04o", filemode.Perm(e.Mode)),
		Size: e.Size, Allocated: e.Allocated, UID: e.UID, GID: e.GID, Nlink: e.Nlink, Inode: e.Inode, Rdev: e.Rdev,
		Atime: api.WritableTime(e.Atime), Mtime: api.WritableTime(e.Mtime), Ctime: api.WritableTime(e.Ctime),
	}
	var err error
	if e.Mode&fs.ModeSymlink != 0 {
		j.Target, err = f.Readlink(ctx, p)
	}
	return j, err
}

// modeString shows a mode as ls -l does.
func modeString(m fs.FileMode) string {
	kind := map[string]byte{
		"file": '-', "directory": 'd', "symlink": 'l', "fifo": 'p', "socket": 's', "char-device": 'c', "block-device": 'b', "unknown": '?',
	}[filemode.TypeName(m)]
	b := []byte{kind}
	const rwx = "rwxrwxrwx"
	for i := range 9 {
		if m.Perm()&(1<<(8-i)) != 0 {
			b = append(b, rwx[i])
		} else {
			b = append(b, '-')
		}
	}
	special := func(i int, set bool, with, without byte) {
		if !set {
			return
		}
		if b[i] == 'x' {
			b[i] = with
		} else {
			b[i] = without
		}
	}
	special(3, m&fs.ModeSetuid != 0, 's', 'S')
	special(6, m&fs.ModeSetgid != 0, 's', 'S')
	special(9, m&fs.ModeSticky != 0, 't', 'T')
	return string(b)
}
