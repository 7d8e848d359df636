// Package api is what the two ends of Vole's HTTP API share: the types of its schemas,
// which are generated from server/openapi.yaml, and their translation from and to the
// types of package driver.
package api

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/filemode"
)

//go:generate go -C ../tools run ./apigen ../../server/openapi.yaml ../../server/openapi.json ../../internal/api/types.gen.go

const (
	// Prefix begins the path of every route.
	Prefix = "/vole/v1"
	// Version is that of the description: raised when something is added, or changed.
	Version = 2
	// MaxIO is the most bytes that one request by handle reads or writes.
	MaxIO = 16 << 20
	// MaxJSON is the most bytes of a request's JSON.
	MaxJSON = 1 << 20
)

// Headers of requests and answers.
const (
	HeaderFilesystem     = "Vole-Filesystem" // the open file system to work through
	HeaderInstance       = "Vole-Instance"   // of an answer: the process that gave it
	HeaderIfInstance     = "If-Instance"     // of a request: the process that must have it
	HeaderIdempotencyKey = "Idempotency-Key"
	HeaderRequestID      = "X-Request-Id"
	HeaderDigest         = "Repr-Digest"    // RFC 9530
	HeaderSizeHint       = "Vole-Size-Hint" // of a body whose length is not known for sure

	// TypeSparse is a body of ranges; see Sparse.
	TypeSparse = "application/vnd.vole.sparse"
	TypeBytes  = "application/octet-stream"
	TypeTar    = "application/x-tar"
)

// FromVolume describes a volume.
func FromVolume(i driver.Info) Volume {
	labels := Labels(i.Labels)
	if labels == nil {
		labels = Labels{}
	}
	return Volume{ID: i.ID, Name: i.Name, Kind: Kind(i.Kind), State: string(i.State), Quota: int64(i.Quota), Capacity: int64(i.Capacity),
		Labels: labels, Created: i.Created, Updated: i.Updated, LastUsed: i.LastUsed, Used: int64(i.Used), UsedStale: i.UsedStale, Generation: i.Generation}
}

// Info is the volume as the driver describes it.
func (v Volume) Info() driver.Info {
	return driver.Info{ID: v.ID, Name: v.Name, Kind: driver.Kind(v.Kind), State: driver.State(v.State), Quota: driver.Size(v.Quota),
		Capacity: driver.Size(v.Capacity), Labels: driver.Labels(v.Labels), Created: v.Created, Updated: v.Updated, LastUsed: v.LastUsed,
		Used: driver.Size(v.Used), UsedStale: v.UsedStale, Generation: v.Generation}
}

// entryTypes has the type of an entry for the type bits of its mode.
var entryTypes = map[fs.FileMode]EntryType{
	0: File, fs.ModeDir: Directory, fs.ModeSymlink: Symlink, fs.ModeNamedPipe: Fifo, fs.ModeSocket: Socket,
	fs.ModeDevice: Block, fs.ModeDevice | fs.ModeCharDevice: Char,
}

// TypeOf returns the type of an entry with the given mode, "" for one that the API lacks.
func TypeOf(mode fs.FileMode) EntryType { return entryTypes[mode.Type()] }

// TypeBits returns the type bits that t stands for.
func (e EntryType) TypeBits() (bits fs.FileMode, ok bool) {
	for bits, t := range entryTypes {
		if t == e {
			return bits, true
		}
	}
	return 0, false
}

// FromEntry describes an entry. Names that are not UTF-8 are kept in NameBytes.
func FromEntry(e driver.Entry) Entry {
	out := Entry{Name: e.Name, Type: entryTypes[e.Mode.Type()], Mode: fmt.Sprintf("%04o", filemode.Perm(e.Mode)), Size: e.Size, Allocated: e.Allocated,
		UID: int64(e.UID), GID: int64(e.GID), Nlink: int64(e.Nlink), Inode: e.Inode, Rdev: int64(e.Rdev),
		Atime: WritableTime(e.Atime), Mtime: WritableTime(e.Mtime), Ctime: WritableTime(e.Ctime)}
	if !utf8.ValidString(e.Name) {
		out.Name, out.NameBytes = strings.ToValidUTF8(e.Name, "\ufffd"), []byte(e.Name)
	}
	return out
}

// WritableTime returns t in UTC, or the nearest time that RFC 3339, and so JSON, can write.
func WritableTime(t time.Time) time.Time {
	t = t.UTC()
	switch {
	case t.IsZero():
		return t
	case t.Year() < 1:
		return time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC)
	case t.Year() > 9999:
		return time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	}
	return t
}

// Driver is the entry as the driver describes it.
func (e Entry) Driver() driver.Entry {
	bits, _ := e.Type.TypeBits()
	perm, _ := ParseMode(e.Mode)
	out := driver.Entry{Name: e.Name, Mode: bits | perm, Size: e.Size, Allocated: e.Allocated, UID: uint32(e.UID), GID: uint32(e.GID),
		Nlink: uint64(e.Nlink), Inode: e.Inode, Rdev: uint64(e.Rdev), Atime: e.Atime, Mtime: e.Mtime, Ctime: e.Ctime}
	if e.NameBytes != nil {
		out.Name = string(e.NameBytes)
	}
	return out
}

// FromAttachment describes an attachment.
func FromAttachment(a driver.AttachmentInfo) Attachment {
	return Attachment{ID: a.ID, VolumeID: a.VolumeID, Volume: a.Volume, Holder: a.Holder, ReadOnly: a.ReadOnly, HostPath: a.HostPath,
		Exclusive: a.Exclusive, Host: a.Host, Pid: a.PID, Started: a.Started, Since: a.Since}
}

// Info is the attachment as the driver describes it.
func (a Attachment) Info() driver.AttachmentInfo {
	return driver.AttachmentInfo{ID: a.ID, VolumeID: a.VolumeID, Volume: a.Volume, Holder: a.Holder, ReadOnly: a.ReadOnly, HostPath: a.HostPath,
		Exclusive: a.Exclusive, Host: a.Host, PID: a.Pid, Started: a.Started, Since: a.Since}
}

// FromUsage describes the size of a volume.
func FromUsage(s driver.Statfs) Usage {
	return Usage{Total: s.Total, Used: s.Used, Free: s.Free, Files: s.Files, Allocated: s.Allocated}
}

// Driver is the usage as the driver describes it.
func (u Usage) Driver() driver.Statfs {
	return driver.Statfs{Total: u.Total, Used: u.Used, Free: u.Free, Files: u.Files, Allocated: u.Allocated}
}

// FromCaps describes what volumes can do over the API.
func FromCaps(c driver.Caps) Caps {
	return Caps{Backend: c.Backend, Dir: c.Dir, Disk: c.Disk, Quota: c.Quota, Links: c.Links, Xattrs: c.Xattrs, Chown: c.Chown,
		Devices: c.Devices, Holes: c.Holes, Drafts: c.Drafts, Leases: c.Leases, Clones: c.Clones}
}

// Driver is what a client of the API can do.
func (c Caps) Driver() driver.Caps {
	return driver.Caps{Backend: "cloud", Dir: c.Dir, Disk: c.Disk, Quota: c.Quota, Links: c.Links, Xattrs: c.Xattrs, Chown: c.Chown,
		Devices: c.Devices, Holes: c.Holes, Drafts: c.Drafts, Leases: c.Leases, Clones: c.Clones}
}

// FormatMode writes permission bits as the API takes them.
func FormatMode(m fs.FileMode) string {
	return strconv.FormatUint(uint64(filemode.Perm(m)), 8)
}

// ParseMode reads permission bits as the API writes them.
func ParseMode(s string) (fs.FileMode, error) {
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > 0o7777 {
		return 0, driver.Errorf(driver.ErrInvalid, "mode %q: write octal permission bits, at most 7777", s)
	}
	return filemode.Go(uint32(n)), nil
}
