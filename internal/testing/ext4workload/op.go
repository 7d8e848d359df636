// Package ext4workload generates random operations on a file system, and applies them to
// package ext4, to a directory by system calls, and to a model in memory that predicts the
// result.
package ext4workload

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
)

// Kind is the kind of an operation.
type Kind int

// The operations. Those of files act on the file that is open as Slot or, when Slot is
// negative, open the one at Path for one step.
const (
	WriteFile Kind = iota
	WriteSparse
	Open // Path as Slot, and make it if it is missing
	Close
	WriteAt
	Append
	Truncate
	Punch
	Allocate
	Mkdir
	MkdirAll
	Symlink
	Link
	Mknod
	Rename
	Remove
	RemoveAll
	Copy
	Chmod
	Chown
	Chtimes
	Setxattr
	Removexattr
	kindCount
)

var kindNames = [kindCount]string{"WriteFile", "WriteSparse", "Open", "Close", "WriteAt", "Append", "Truncate", "Punch", "Allocate",
	"Mkdir", "MkdirAll", "Symlink", "Link", "Mknod", "Rename", "Remove", "RemoveAll", "Copy", "Chmod", "Chown", "Chtimes",
	"Setxattr", "Removexattr"}

func (k Kind) String() string { return kindNames[k] }

// Op is one operation.
type Op struct {
	Kind     Kind
	Slot     int
	Path     string
	Path2    string // target of a rename or copy; what a symbolic link says
	Off, Len int64  // range or size
	Seed     uint64 // of the content
	Mode     uint32 // as in st_mode
	UID, GID int    // -1 keeps one
	Dev      uint64 // as makedev makes it
	Sec      int64  // times
	Nsec     int64
	Name     string // of an attribute
	Value    string
	Flag     bool // exclusive, no replacement, or keeping the size
}

// IsFileOp reports whether the operation changes the content of a file.
func (o *Op) IsFileOp() bool { return o.Kind >= WriteAt && o.Kind <= Allocate }

// String describes the operation in a line.
func (o *Op) String() string {
	s := fmt.Sprintf("%s %q", o.Kind, shortenPath(o.Path))
	if o.Slot >= 0 && (o.IsFileOp() || o.Kind == Open || o.Kind == Close) {
		s += fmt.Sprintf(" slot %d", o.Slot)
	}
	if o.Path2 != "" {
		s += fmt.Sprintf(" %q", shortenPath(o.Path2))
	}
	if o.Off != 0 || o.Len != 0 {
		s += fmt.Sprintf(" %d+%d", o.Off, o.Len)
	}
	if o.Name != "" {
		s += fmt.Sprintf(" %s=%d bytes", o.Name, len(o.Value))
	}
	if o.Mode != 0 {
		s += fmt.Sprintf(" mode %o", o.Mode)
	}
	if o.Flag {
		s += " flag"
	}
	return s
}

// journalMagic begins the blocks of a journal, in which such content must be escaped.
const journalMagic = 0xc03b3998

// Content returns n bytes that a seed determines. Some are zeros, and some look like
// blocks of a journal.
func Content(seed uint64, n int64) []byte {
	b := make([]byte, (n+7)&^7)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := int64(0); i < n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	switch seed % 8 {
	case 0:
		clear(b)
	case 1:
		clear(b[:len(b)/2])
	case 2, 3:
		for i := 0; i+4 <= len(b); i += 4096 {
			binary.BigEndian.PutUint32(b[i:], journalMagic)
		}
	}
	return b[:n]
}

// sparseRanges returns the data ranges of a sparse file, as pairs of offset and length.
func sparseRanges(o *Op) [][2]int64 {
	r := rand.New(rand.NewPCG(o.Seed, 2))
	var list [][2]int64
	for at, k := int64(0), 0; k < 12; k++ {
		at += r.Int64N(max(o.Len/8, 1))
		n := min(r.Int64N(20_000), o.Len-at)
		if n <= 0 {
			break
		}
		list = append(list, [2]int64{at, n})
		at += n
	}
	return list
}

// shortenPath shortens long names in a path.
func shortenPath(path string) string {
	els := strings.Split(path, "/")
	for i, el := range els {
		if len(el) > 10 {
			els[i] = fmt.Sprintf("%s~%d", el[:8], len(el))
		}
	}
	if len(els) > 12 {
		els = append(els[:12:12], fmt.Sprintf("~%d", len(path)))
	}
	return strings.Join(els, "/")
}
