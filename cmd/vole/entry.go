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

// modeString shows a mode as ls -l does: the type, rights of owner, group and others, and in place
// of each x setuid, setgid and the sticky bit, as capitals where there is no x beneath.
func modeString(m fs.FileMode) string {
	kind := map[string]byte{
		"file": '-', "directory": 'd', "symlink": 'l', "fifo": 'p', "socket": 's', "char-device": 'c', "block-device": 'b', "unknown": '?',
	}[filemode.TypeName(m)]
	b := append([]byte{kind}, "rwxrwxrwx"...)
	for i := range 9 {
		if m.Perm()&(1<<(8-i)) == 0 {
			b[1+i] = '-'
		}
	}
	for _, special := range []struct {
		at     int
		bit    fs.FileMode
		letter byte
	}{{3, fs.ModeSetuid, 's'}, {6, fs.ModeSetgid, 's'}, {9, fs.ModeSticky, 't'}} {
		switch {
		case m&special.bit == 0:
		case b[special.at] == 'x':
			b[special.at] = special.letter
		default:
			b[special.at] = special.letter - 'a' + 'A'
		}
	}
	return string(b)
}
