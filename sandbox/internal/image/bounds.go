package image

import (
	"bytes"
	"cmp"
	"io"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// What an image may cost, whatever it says. A few kilobytes can be compressed
// gigabytes, so that memory and time need bounds of their own.
const (
	MaxJSON       = 4 << 20 // bytes of a manifest or configuration
	maxValues     = 1 << 18 // values in one of them, which take more memory than bytes
	maxMembers    = 1 << 16 // members of an image's archive that are remembered
	maxMemberName = 255     // bytes of the name of such a member: blobs/sha256/HEX has 77
	MaxLayers     = 1024    // docker's limit is 127
)

// CheckJSON refuses JSON of an image that would take much memory as values: two bytes are
// enough for an element of a list.
func CheckJSON(b []byte) error {
	if len(b) > MaxJSON {
		return driver.Errorf(vole.ErrCorrupt, "it has more than %d bytes, the most for JSON of an image", MaxJSON)
	}
	if n := bytes.Count(b, []byte(",")); n > maxValues {
		return driver.Errorf(vole.ErrCorrupt, "it has more than %d values, the most for JSON of an image", maxValues)
	}
	return nil
}

// A file may unpack to this much, and more by its size: gzip expands at most 1032 times.
const (
	freeExpansion = 256 << 20
	maxExpansion  = 1100
)

// What an image may take unless Limits say otherwise.
const (
	defaultBytes   = 64 << 30
	defaultEntries = 4 << 20
)

// scaledToFile is l, with the defaults of its zero fields, for an image file of size bytes.
func (l Limits) scaledToFile(size int64) Limits {
	most := cmp.Or(l.Bytes, defaultBytes)
	if size < (most-freeExpansion)/maxExpansion {
		most = min(most, freeExpansion+maxExpansion*size)
	}
	return Limits{Bytes: most, Entries: cmp.Or(l.Entries, defaultEntries)}
}

// exceededError is the error for more than the bytes that are allowed.
func (l Limits) exceededError() error {
	return driver.Errorf(vole.ErrNoSpace, "it unpacks to more than %v, the most for a file of this size", vole.Size(l.Bytes))
}

// budgetReader fails with what exceeded returns when more is read than is left.
type budgetReader struct {
	r        io.Reader
	left     *int64
	exceeded func() error
}

// Read returns nothing of a read that goes beyond the budget.
func (b budgetReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if *b.left -= int64(n); *b.left < 0 {
		return 0, b.exceeded()
	}
	return n, err
}
