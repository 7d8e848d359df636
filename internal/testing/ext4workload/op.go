package ext4workload

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
)

// Kind is the kind of an operation.
type Kind int

// The operations. Those on content change the file that is open in Slot or, if Slot is
// negative, open the one at Path for the time.
const (
	WriteFile   Kind = iota // the file at Path, of Len bytes; Flag: exclusive
	WriteSparse             // the same with holes: see sparseRanges
	Open                    // Path in Slot, and create it if it does not exist
	Close                   // the file in Slot
	WriteAt                 // Len bytes at Off
	Append                  // Len bytes
	Truncate                // to Len bytes
	Punch                   // a hole of Len bytes at Off
	Allocate                // Len bytes at Off; Flag: keep the size
	Mkdir                   // Path, with Mode
	MkdirAll                // Path and its parents, with Mode
	Symlink                 // Path, to Path2
	Link                    // give the file at Path the name Path2
	Mknod                   // Path, with type and permissions in Mode, and number Dev
	Rename                  // Path to Path2; Flag: noReplace
	Remove                  // Path
	RemoveAll               // Path and everything in it
	Copy                    // Path to Path2; Flag: noReplace
	Chmod                   // Path, to Mode
	Chown                   // Path, to UID and GID
	Chtimes                 // both times of Path, to Sec and Nsec
	Setxattr                // attribute Name of Path, to Value
	Removexattr             // attribute Name of Path
	kindCount
)

var kindNames = [kindCount]string{"WriteFile", "WriteSparse", "Open", "Close", "WriteAt", "Append", "Truncate", "Punch", "Allocate",
	"Mkdir", "MkdirAll", "Symlink", "Link", "Mknod", "Rename", "Remove", "RemoveAll", "Copy", "Chmod", "Chown", "Chtimes",
	"Setxattr", "Removexattr"}

func (k Kind) String() string { return kindNames[k] }

// Op is one operation.
type Op struct {
	Kind     Kind
	Slot     int // number of an open file; negative: Path is opened for the operation
	Path     string
	Path2    string // target of a rename or copy, or of a symbolic link
	Off, Len int64  // range; size in Len
	Seed     uint64 // determines the content: see Content
	Mode     uint32 // as in st_mode
	UID, GID int    // -1 keeps the old one
	Dev      uint64 // as makedev makes it
	Sec      int64  // access and modification time
	Nsec     int64
	Name     string // of an attribute
	Value    string
	Flag     bool // Exclusive, noReplace or keepSize
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

// Content returns n bytes that a seed determines, so that an operation need not carry
// them. One seed in eight gives zeros, one begins with zeros, and two begin each 4 KiB
// like a block of a journal, which must be escaped there.
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
// They depend on the seed and the size only.
func sparseRanges(o *Op) [][2]int64 {
	// Another stream than that of Content.
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

// shortenPath shortens long names in a path, for messages.
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
