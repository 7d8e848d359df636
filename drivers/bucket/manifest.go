package bucket

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/volehq/vole/driver"
)

// A manifest contains all that the database knows about one generation of a volume, so that the
// volume can be rebuilt from the blob store alone. It is an object of its own,
//
//	o/<org>/m/<volume>/<generation, 20 digits>.jsonl.zst
//
// with ids in hex: lines of JSON, compressed with zstd. Each line is a [record] of one
// kind. The kinds come in the order of the struct's fields, and the records of one kind
// in ascending order of their keys, so that a reader finds duplicates without memory.
// The last line, the trailer, has the counts of all others and the SHA-256 of their bytes.

const (
	manifestFormat  = "vole-manifest"
	manifestVersion = 1
	manifestSuffix  = ".jsonl.zst"

	// maxManifestLine is the longest line, in bytes: a blob of chunkSize in base64, and its JSON.
	maxManifestLine = chunkSize/3*4 + 64<<10
	// maxZstdWindow bounds the memory of decompression, in bytes.
	maxZstdWindow = 32 << 20
)

// record is one line of a manifest: one of its fields is set.
type record struct {
	Head   *manifestHead  `json:"head,omitempty"`
	Blob   *blobRecord    `json:"blob,omitempty"`
	Inode  *inodeRecord   `json:"inode,omitempty"`
	Entry  *entryRecord   `json:"entry,omitempty"`
	Xattr  *xattrRecord   `json:"xattr,omitempty"`
	Chunk  *chunkRecord   `json:"chunk,omitempty"`
	Orphan *orphanRecord  `json:"orphan,omitempty"`
	End    *manifestCount `json:"end,omitempty"`
}

// hexID is an id that is written in hex in JSON.
type hexID []byte

func (h hexID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h), nil }

func (h *hexID) UnmarshalText(b []byte) error {
	if len(b) != 32 {
		return fmt.Errorf("an id of %d digits, not 32", len(b))
	}
	id, err := hex.AppendDecode(nil, b)
	*h = id
	return err
}

// manifestHead is the first record. Sizes and times are those of the volume's row.
type manifestHead struct {
	Format     string `json:"format"`
	Version    int    `json:"version"`
	Org        hexID  `json:"org"`
	OrgName    string `json:"org_name"`
	Volume     hexID  `json:"volume"`
	Name       string `json:"name"`
	Quota      int64  `json:"quota,omitempty"`
	Labels     string `json:"labels,omitempty"`
	Created    int64  `json:"created"`
	Updated    int64  `json:"updated"`
	NextIno    int64  `json:"next_ino"`
	Generation int64  `json:"generation"`
}

// blobRecord is a blob that chunks of the volume refer to. Data is set if it is inline, Sums
// if it has an object.
type blobRecord struct {
	ID      hexID  `json:"id"`
	Size    int64  `json:"size"`
	Sums    []byte `json:"sums,omitempty"`
	Data    []byte `json:"data,omitempty"`
	Created int64  `json:"created"`
}

type inodeRecord struct {
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

// entryRecord is a directory entry. Names are in base64, as they may be any bytes.
type entryRecord struct {
	Parent int64  `json:"parent"`
	Name   []byte `json:"name"`
	Ino    int64  `json:"ino"`
}

type xattrRecord struct {
	Ino   int64  `json:"ino"`
	Name  []byte `json:"name"`
	Value []byte `json:"value"`
}

type chunkRecord struct {
	Ino     int64 `json:"ino"`
	Pos     int64 `json:"pos"`
	Len     int64 `json:"len"`
	Blob    hexID `json:"blob"`
	BlobPos int64 `json:"blob_pos,omitempty"`
}

// orphanRecord is an inode that has no name.
type orphanRecord struct {
	Ino int64 `json:"ino"`
}

// manifestCount is the trailer.
type manifestCount struct {
	Blobs   int64  `json:"blobs"`
	Inodes  int64  `json:"inodes"`
	Entries int64  `json:"entries"`
	Xattrs  int64  `json:"xattrs"`
	Chunks  int64  `json:"chunks"`
	Orphans int64  `json:"orphans"`
	SHA256  string `json:"sha256"`
}

// recordKind returns the position of the field that is set; -1: not exactly one is.
func (r *record) recordKind() int {
	set := [...]bool{r.Head != nil, r.Blob != nil, r.Inode != nil, r.Entry != nil, r.Xattr != nil, r.Chunk != nil, r.Orphan != nil, r.End != nil}
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

// countRecord counts a record.
func (c *manifestCount) countRecord(r *record) {
	switch {
	case r.Blob != nil:
		c.Blobs++
	case r.Inode != nil:
		c.Inodes++
	case r.Entry != nil:
		c.Entries++
	case r.Xattr != nil:
		c.Xattrs++
	case r.Chunk != nil:
		c.Chunks++
	case r.Orphan != nil:
		c.Orphans++
	}
}

// manifestKey returns the key of a manifest.
func manifestKey(org, vol []byte, generation int64) string {
	return fmt.Sprintf("%s%s/%020d%s", manifestPrefix(org), hex.EncodeToString(vol), generation, manifestSuffix)
}

// manifestPrefix begins the keys of an organisation's manifests and of its own object.
func manifestPrefix(org []byte) string { return orgPrefix(org) + "m/" }

// orgObject is the content of an organisation's own object, from which one without volumes is
// rebuilt. Its key contains a hash of its bytes, as objects are immutable.
type orgObject struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	Org     hexID  `json:"org"`
	Name    string `json:"name"`
	Created int64  `json:"created"`
}

const (
	orgFormat = "vole-organisation"
	// maxOrgObject bounds the object, in bytes. It is far more than a name takes.
	maxOrgObject = 64 << 10
)

// orgObjectKey returns the key of an organisation's object with that content.
func orgObjectKey(org, data []byte) string {
	sum := sha256.Sum256(data)
	return fmt.Sprintf("%sorg-%x.json", manifestPrefix(org), sum[:8])
}

// parseOrgObject decodes and checks the object of an organisation.
func parseOrgObject(org, data []byte) (orgObject, error) {
	var o orgObject
	if err := decodeStrictJSON(data, &o); err != nil {
		return o, err
	}
	if o.Format != orgFormat || o.Version != manifestVersion {
		return o, fmt.Errorf("format %q version %d is not supported by this version of vole", o.Format, o.Version)
	}
	if !bytes.Equal(o.Org, org) {
		return o, fmt.Errorf("it is of another organisation, %x", []byte(o.Org))
	}
	if err := driver.ValidateName(o.Name); err != nil {
		return o, err
	}
	return o, nil
}

// parsedKey is what the key of an object says: it is a blob, a manifest, or an organisation's
// object.
type parsedKey struct {
	org, id    []byte // ids of the organisation, and of the blob or volume; id is nil for an organisation's object
	manifest   bool
	generation int64
}

// parseObjectKey is the inverse of blobKey, manifestKey and orgObjectKey. ok is false for
// other keys.
func parseObjectKey(key string) (k parsedKey, ok bool) {
	part := strings.Split(key, "/")
	if len(part) < 4 || part[0] != "o" {
		return k, false
	}
	if k.org = parseHexID(part[1]); k.org == nil {
		return k, false
	}
	switch {
	case part[2] == "b" && len(part) == 5:
		k.id = parseHexID(part[4])
		return k, k.id != nil && blobKey(k.org, k.id) == key
	case part[2] == "m" && len(part) == 4:
		return k, strings.HasPrefix(part[3], "org-") && strings.HasSuffix(part[3], ".json")
	case part[2] == "m" && len(part) == 5:
		name, isManifest := strings.CutSuffix(part[4], manifestSuffix)
		k.id, k.manifest = parseHexID(part[3]), true
		var fits bool
		k.generation, fits = parseDigits20(name)
		return k, isManifest && fits && k.id != nil
	}
	return k, false
}

// parseHexID parses an id in hex. It returns nil for other text.
func parseHexID(s string) []byte {
	var id hexID
	if strings.ToLower(s) != s || id.UnmarshalText([]byte(s)) != nil {
		return nil
	}
	return id
}

// manifestWriter writes records, and keeps the counts and the sum for the trailer.
type manifestWriter struct {
	z     *zstd.Encoder
	w     io.Writer // writes to z and sum
	sum   hash.Hash
	buf   bytes.Buffer
	enc   *json.Encoder // writes to buf
	count manifestCount
	end   manifestCount // the trailer, once it is written
}

// newManifestWriter returns a writer of compressed lines to w.
func newManifestWriter(w io.Writer) (*manifestWriter, error) {
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(4<<20))
	if err != nil {
		return nil, err
	}
	m := &manifestWriter{z: z, sum: sha256.New()}
	m.w = io.MultiWriter(z, m.sum)
	m.enc = json.NewEncoder(&m.buf)
	m.enc.SetEscapeHTML(false)
	return m, nil
}

// writeRecord writes and counts a record.
func (m *manifestWriter) writeRecord(r *record) error {
	m.count.countRecord(r)
	m.buf.Reset()
	if err := m.enc.Encode(r); err != nil {
		return err
	}
	_, err := m.w.Write(m.buf.Bytes())
	return err
}

// writeTrailer writes the last record. The caller closes z.
func (m *manifestWriter) writeTrailer() error {
	m.end = m.count
	m.end.SHA256 = hex.EncodeToString(m.sum.Sum(nil))
	return m.writeRecord(&record{End: &m.end})
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
