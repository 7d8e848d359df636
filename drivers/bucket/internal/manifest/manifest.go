// Package manifest is the format of manifests, from which the database of a namespace is rebuilt.
//
// A manifest contains all that the database knows about one generation of a volume, so that the
// volume can be rebuilt from the blob store alone. It is an object of its own,
//
//	o/<org>/m/<volume>/<generation, 20 digits>.jsonl.zst
//
// with ids in hex: lines of JSON, compressed with zstd. Each line is a [Record] of one
// kind. The kinds come in the order of the struct's fields, and the records of one kind
// in ascending order of their keys, so that a reader finds duplicates without memory.
// The last line, the trailer, has the counts of all others and the SHA-256 of their bytes.
//
// An organisation has an object too, which keeps its name: see [Org].
//
// The package knows neither the database nor the store: [Write] and [Read] work on streams. Both
// check each record in the same way, so that what was written can be read.
package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/blob"
)

const (
	format    = "vole-manifest"
	orgFormat = "vole-organisation"
	version   = 1 // of both formats
	suffix    = ".jsonl.zst"

	// RootIno is the inode number of a volume's root directory.
	RootIno = 1
	// MaxGeneration is the highest generation of a valid manifest. It leaves room to count on.
	MaxGeneration = math.MaxInt64 / 2
	// MaxXattrs bounds the bytes of names and values of one inode's attributes, which are kept
	// in the database.
	MaxXattrs = 1 << 20
	// maxTarget is the longest target of a symbolic link, in bytes: PATH_MAX of Linux.
	maxTarget = 4096
	// maxLine is the longest line, in bytes: a blob in base64, and its JSON.
	maxLine = blob.MaxSize/3*4 + 64<<10
	// maxWindow bounds the memory of decompression, in bytes.
	maxWindow = 32 << 20
)

// Record is one line of a manifest: one of its fields is set.
type Record struct {
	Head   *Head   `json:"head,omitempty"`
	Blob   *Blob   `json:"blob,omitempty"`
	Inode  *Inode  `json:"inode,omitempty"`
	Entry  *Entry  `json:"entry,omitempty"`
	Xattr  *Xattr  `json:"xattr,omitempty"`
	Chunk  *Chunk  `json:"chunk,omitempty"`
	Orphan *Orphan `json:"orphan,omitempty"`
	End    *End    `json:"end,omitempty"`
}

// Kinds of records, as recordKind returns them: the positions of the fields.
const (
	kindHead = iota
	kindBlob
	kindInode
	kindEntry
	kindXattr
	kindChunk
	kindOrphan
	kindEnd
	kindCount
)

// ID is an id that is written in hex in JSON.
type ID []byte

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ID) UnmarshalText(b []byte) error {
	if len(b) != 32 {
		return fmt.Errorf("an id of %d digits, not 32", len(b))
	}
	decoded, err := hex.AppendDecode(nil, b)
	*id = decoded
	return err
}

// Head is the first record. Sizes and times are those of the volume's row.
type Head struct {
	Format     string `json:"format"`  // set by Write
	Version    int    `json:"version"` // set by Write
	Org        ID     `json:"org"`
	OrgName    string `json:"org_name"`
	Volume     ID     `json:"volume"`
	Name       string `json:"name"`
	Quota      int64  `json:"quota,omitempty"`
	Labels     string `json:"labels,omitempty"`
	Created    int64  `json:"created"`
	Updated    int64  `json:"updated"`
	NextIno    int64  `json:"next_ino"`
	Generation int64  `json:"generation"`
}

// Blob is a blob that chunks of the volume refer to. Data is set if it is inline, Sums if it
// has an object.
type Blob struct {
	ID      ID     `json:"id"`
	Size    int64  `json:"size"`
	Sums    []byte `json:"sums,omitempty"`
	Data    []byte `json:"data,omitempty"`
	Created int64  `json:"created"`
}

// Inode is an inode.
type Inode struct {
	Ino    int64  `json:"ino"`
	Mode   int64  `json:"mode"`
	UID    int64  `json:"uid,omitempty"`
	GID    int64  `json:"gid,omitempty"`
	Nlink  int64  `json:"nlink,omitempty"`
	Size   int64  `json:"size,omitempty"`
	Alloc  int64  `json:"alloc,omitempty"`
	Atime  int64  `json:"atime"`
	Mtime  int64  `json:"mtime"`
	Ctime  int64  `json:"ctime"`
	Rdev   int64  `json:"rdev,omitempty"`
	Target []byte `json:"target,omitempty"`
}

// Entry is a directory entry. Names are in base64, as they may be any bytes: readers must expect
// names that are not valid.
type Entry struct {
	Parent int64  `json:"parent"`
	Name   []byte `json:"name"`
	Ino    int64  `json:"ino"`
}

// Xattr is an extended attribute.
type Xattr struct {
	Ino   int64  `json:"ino"`
	Name  []byte `json:"name"`
	Value []byte `json:"value"`
}

// Chunk is a range of a file, and the range of a blob that holds its bytes.
type Chunk struct {
	Ino     int64 `json:"ino"`
	Pos     int64 `json:"pos"`
	Len     int64 `json:"len"`
	Blob    ID    `json:"blob"`
	BlobPos int64 `json:"blob_pos,omitempty"`
}

// Orphan is an inode that has no name.
type Orphan struct {
	Ino int64 `json:"ino"`
}

// End is the trailer.
type End struct {
	Blobs   int64  `json:"blobs"`
	Inodes  int64  `json:"inodes"`
	Entries int64  `json:"entries"`
	Xattrs  int64  `json:"xattrs"`
	Chunks  int64  `json:"chunks"`
	Orphans int64  `json:"orphans"`
	SHA256  string `json:"sha256"`
}

// recordKind returns the position of the field that is set; -1: not exactly one is.
func (r *Record) recordKind() int {
	set := [kindCount]bool{r.Head != nil, r.Blob != nil, r.Inode != nil, r.Entry != nil, r.Xattr != nil, r.Chunk != nil, r.Orphan != nil, r.End != nil}
	kind := -1
	for i, s := range set {
		if s && kind >= 0 {
			return -1
		}
		if s {
			kind = i
		}
	}
	return kind
}

// makeTrailer returns the trailer of a manifest with so many records of each kind.
func makeTrailer(count [kindCount]int64, sum []byte) End {
	return End{Blobs: count[kindBlob], Inodes: count[kindInode], Entries: count[kindEntry], Xattrs: count[kindXattr],
		Chunks: count[kindChunk], Orphans: count[kindOrphan], SHA256: hex.EncodeToString(sum)}
}

// Prefix begins the keys of an organisation's manifests and of its own object.
func Prefix(org []byte) string { return blob.OrgPrefix(org) + "m/" }

// Key returns the key of a manifest.
func Key(org, vol []byte, generation int64) string {
	return fmt.Sprintf("%s%s/%020d%s", Prefix(org), hex.EncodeToString(vol), generation, suffix)
}

// Org is the content of an organisation's own object, from which one without volumes is
// rebuilt. Its key contains a hash of its bytes, as objects are immutable.
type Org struct {
	Format  string `json:"format"`  // set by Encode
	Version int    `json:"version"` // set by Encode
	Org     ID     `json:"org"`
	Name    string `json:"name"`
	Created int64  `json:"created"`
}

// MaxOrg bounds the object of an organisation, in bytes. It is far more than a name takes.
const MaxOrg = 64 << 10

// orgObjectKey returns the key of an organisation's object with that content.
func orgObjectKey(org, data []byte) string {
	sum := sha256.Sum256(data)
	return fmt.Sprintf("%sorg-%x.json", Prefix(org), sum[:8])
}

// Encode returns the object's key and bytes.
func (o Org) Encode() (key string, data []byte, err error) {
	o.Format, o.Version = orgFormat, version
	data, err = json.Marshal(o)
	return orgObjectKey(o.Org, data), data, err
}

// ParseOrg decodes and checks the object of an organisation with that key. ErrCorrupt: it is
// damaged.
func ParseOrg(org []byte, key string, data []byte) (o Org, err error) {
	err = decodeStrictJSON(data, &o)
	switch {
	case err != nil:
	case o.Format != orgFormat || o.Version != version:
		err = fmt.Errorf("format %q version %d is not supported by this version of vole", o.Format, o.Version)
	case !bytes.Equal(o.Org, org):
		err = fmt.Errorf("it is of another organisation, %x", []byte(o.Org))
	case driver.ValidateName(o.Name) != nil:
		err = driver.ValidateName(o.Name)
	case orgObjectKey(org, data) != key:
		err = fmt.Errorf("its bytes do not have the hash in its key")
	}
	if err != nil {
		err = driver.Errorf(driver.ErrCorrupt, "%v", err)
	}
	return o, err
}

// ParsedKey is what the key of an object says: it is a blob, a manifest, or an organisation's
// object.
type ParsedKey struct {
	Org, ID    []byte // ids of the organisation, and of the blob or volume; ID is nil for an organisation's object
	IsManifest bool
	Generation int64
}

// ParseKey is the inverse of blob.Key, Key and the keys of organisations' objects. ok is false
// for other keys.
func ParseKey(key string) (k ParsedKey, ok bool) {
	part := strings.Split(key, "/")
	if len(part) < 4 || part[0] != "o" {
		return k, false
	}
	if k.Org = parseHexID(part[1]); k.Org == nil {
		return k, false
	}
	switch {
	case part[2] == "b" && len(part) == 5:
		k.ID = parseHexID(part[4])
		return k, k.ID != nil && blob.Key(k.Org, k.ID) == key
	case part[2] == "m" && len(part) == 4:
		return k, strings.HasPrefix(part[3], "org-") && strings.HasSuffix(part[3], ".json")
	case part[2] == "m" && len(part) == 5:
		name, hasSuffix := strings.CutSuffix(part[4], suffix)
		k.ID, k.IsManifest = parseHexID(part[3]), true
		var fits bool
		k.Generation, fits = parseDigits20(name)
		return k, hasSuffix && fits && k.ID != nil
	}
	return k, false
}

// parseHexID parses an id in hex. It returns nil for other text.
func parseHexID(s string) []byte {
	var id ID
	if strings.ToLower(s) != s || id.UnmarshalText([]byte(s)) != nil {
		return nil
	}
	return id
}

// parseDigits20 parses a number of exactly 20 digits.
func parseDigits20(s string) (int64, bool) {
	if len(s) != 20 || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// decodeStrictJSON decodes one value. Unknown fields are errors, since they would be lost
// silently.
func decodeStrictJSON(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("data after the value")
	}
	return nil
}
