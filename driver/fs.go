package driver

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"time"
)

// FS is the second seam: the files of one open volume. All methods may be called
// from any number of goroutines.
//
// Paths. Every path is resolved beneath the volume's root: a symbolic link that
// leads out of it makes the operation fail with ErrPathEscape. A "missing path" is
// ErrNotExist, a path through a file ErrNotDir, too many links ErrLoop. Once the
// volume has been removed every call returns ErrNotFound; after Close, ErrClosed.
//
// Links. Stat, Open, OpenDir, Chmod, Truncate and the inner elements of every path
// follow symbolic links. All other operations act on the link itself where the last element
// is one: WriteFile and Rename replace it, Remove removes it, Copy copies it.
//
// Durability. A call that returned nil survives a power cut, unless the FS was opened
// in batch mode, in which Sync makes all earlier calls durable. Writes by handle are
// durable when File.Sync or File.Close returned nil.
//
// Quota. A change that would take the volume over its quota fails with ErrQuota and
// changes nothing. What is charged is the size of regular files, each inode once;
// a file that lost its last name is charged for as long as the process that took the
// name away has it open. Entries, and the bytes of names, link targets and extended
// attributes, are bounded besides, by MetadataBounds of the quota, with the same error;
// they are given back with the name, of an inode with several with the last.
type FS interface {
	// Stat describes what path leads to. ErrNotExist for a dangling link.
	Stat(ctx context.Context, path string) (Entry, error)
	// Lstat describes what is at path, a link included.
	Lstat(ctx context.Context, path string) (Entry, error)
	// Readlink returns the target of the symbolic link at path, as it was written.
	// ErrInvalid: it is not a link.
	Readlink(ctx context.Context, path string) (string, error)

	// OpenDir opens a directory for listing. ErrNotDir.
	OpenDir(ctx context.Context, path string, opts DirOptions) (Dir, error)
	// Open opens a regular file. The zero options read an existing file.
	// ErrIsDir; ErrExists: Exclusive and there; ErrUnsupported: neither file nor
	// directory (a fifo, socket or device is never opened).
	Open(ctx context.Context, path string, opts OpenOptions) (File, error)
	// OpenEntry opens the regular file at path for reading and describes what it opened:
	// Lstat and Open in one step, for copies of trees. Entry.NoXattrs is told where that
	// costs little. Errors are those of Open with NoFollow.
	OpenEntry(ctx context.Context, path string) (File, Entry, error)
	// WriteFile replaces the file at path by what r yields until io.EOF, and
	// returns how many bytes that was (of a sparse file, its size). Others see the old file or the new one, whole,
	// never a part; when it fails the old one stays. Missing parents are made, 0755.
	// ErrIsDir; ErrExists: Exclusive, and the file exists; an error of r.
	WriteFile(ctx context.Context, path string, r io.Reader, opts WriteOptions) (int64, error)

	// Mkdir makes a directory with exactly these permission bits. ErrExists.
	Mkdir(ctx context.Context, path string, mode fs.FileMode) error
	// MkdirAll makes a directory and its missing parents, and succeeds if it already exists.
	// ErrNotDir: something else exists at path.
	MkdirAll(ctx context.Context, path string, mode fs.FileMode) error
	// Remove removes a file, a link or an empty directory. ErrNotEmpty;
	// ErrInvalid: path is the root.
	Remove(ctx context.Context, path string) error
	// RemoveAll removes path and what is beneath it; the name is gone at once.
	// It succeeds if nothing exists at path. ErrInvalid: path is the root.
	RemoveAll(ctx context.Context, path string) error
	// Rename moves a file or a tree, replacing to as rename(2) does: a file by a
	// file, an empty directory by a directory. ErrIsDir, ErrNotDir, ErrNotEmpty;
	// ErrInvalid: a directory into itself, or the root; ErrExists: NoReplace, and to exists.
	Rename(ctx context.Context, from, to string, opts RenameOptions) error
	// Copy copies a file, a link or a tree within the volume, keeping mode, owner
	// (where the process may), modification time, xattrs, holes, and hard links
	// among what is copied. A file is replaced whole, as WriteFile does; a tree
	// appears whole, and its target must not exist (ErrExists). Missing parents
	// of to are made. A file onto itself, by any name, changes nothing. ErrInvalid: a
	// directory into itself, or the root as target; ErrIsDir: a file onto a directory.
	Copy(ctx context.Context, from, to string, opts CopyOptions) error
	// Link makes path another name of the file at target. ErrExists;
	// ErrPermission: target is a directory.
	Link(ctx context.Context, target, path string) error
	// Symlink makes a symbolic link at path. The target is stored as given; only
	// following it is bounded by the volume. ErrExists.
	Symlink(ctx context.Context, target, path string) error
	// Mknod makes the fifo, socket or device that mode's type says. ErrExists;
	// ErrUnsupported or ErrPermission for devices; ErrInvalid: another type.
	Mknod(ctx context.Context, path string, mode fs.FileMode, rdev uint64) error

	// Chmod sets the permission, setuid, setgid and sticky bits of what path leads to.
	Chmod(ctx context.Context, path string, mode fs.FileMode) error
	// Chown sets the owner; -1 keeps one. ErrPermission.
	Chown(ctx context.Context, path string, uid, gid int) error
	// Chtimes sets access and modification time, to the nanosecond where the
	// backend can; a zero time stays as it is.
	Chtimes(ctx context.Context, path string, atime, mtime time.Time) error
	// Truncate sets a regular file's size; what is added reads as zeros. ErrIsDir.
	Truncate(ctx context.Context, path string, size int64) error

	// Getxattr returns an extended attribute's value. ErrNoXattr; ErrUnsupported.
	Getxattr(ctx context.Context, path, name string) ([]byte, error)
	// Setxattr sets one. ErrUnsupported: the namespace is not available; ErrNoSpace.
	Setxattr(ctx context.Context, path, name string, value []byte) error
	// Removexattr removes one. ErrNoXattr.
	Removexattr(ctx context.Context, path, name string) error
	// Listxattr returns the attributes' names, sorted.
	Listxattr(ctx context.Context, path string) ([]string, error)

	// Statfs tells the volume's size and what is free: of the quota if there is one.
	Statfs(ctx context.Context) (Statfs, error)
	// Sync makes everything done through this FS durable.
	Sync(ctx context.Context) error
	// Close syncs and closes. Files opened through the FS stay usable until closed.
	Close() error
}

// File is one open regular file. Methods may be called concurrently.
type File interface {
	// ReadAt reads as io.ReaderAt does: fewer than len(p) bytes only with an error,
	// io.EOF at the end.
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
	// WriteAt writes all of p at off; a gap it leaves is a hole. ErrReadOnly: the file
	// was opened for reading; ErrInvalid: opened with Append; ErrQuota; ErrNoSpace.
	WriteAt(ctx context.Context, p []byte, off int64) (int, error)
	// Append writes all of p at the end, wherever that is when it happens, in one
	// step, and returns where that was.
	Append(ctx context.Context, p []byte) (int64, error)
	// Truncate sets the size.
	Truncate(ctx context.Context, size int64) error
	// PunchHole makes the range read as zeros and gives its space back where the
	// backend can. The size stays.
	PunchHole(ctx context.Context, off, length int64) error
	// NextData returns the next range at or after off that may hold data, and
	// io.EOF when there is none. A backend without holes returns (off, size).
	NextData(ctx context.Context, off int64) (start, end int64, err error)
	// Stat describes the file.
	Stat(ctx context.Context) (Entry, error)
	// Sync makes what was written durable.
	Sync(ctx context.Context) error
	// Close makes what was written durable, unless in batch mode, and closes.
	Close() error
}

// OpenThenStat is FS.OpenEntry for a backend that does it in two steps.
func OpenThenStat(ctx context.Context, f FS, path string) (File, Entry, error) {
	h, err := f.Open(ctx, path, OpenOptions{NoFollow: true})
	if err != nil {
		return nil, Entry{}, err
	}
	e, err := h.Stat(ctx)
	if err != nil {
		return nil, Entry{}, errors.Join(err, h.Close())
	}
	return h, e, nil
}

// Dir is an open directory: a stream of its entries, without "." and "..".
type Dir interface {
	// Read returns up to n entries (n > 0), and io.EOF with none at the end.
	Read(ctx context.Context, n int) ([]Entry, error)
	// Close closes it.
	Close() error
}

// DirOptions says how to list. The zero value lists whole entries in any order, in
// memory that does not grow with the directory.
type DirOptions struct {
	Sorted    bool // by name, bytewise; the names may be held in memory
	NamesOnly bool // only Name and the type bits of Mode are set: cheaper
}

// OpenOptions says how to open a file. The zero value reads.
type OpenOptions struct {
	Write     bool        // reading and writing
	Append    bool        // writes go to the end only, by Append; implies Write
	Create    bool        // make the file if it is missing; implies Write
	Exclusive bool        // with Create: ErrExists if there
	Truncate  bool        // with Write: empty it
	NoFollow  bool        // ErrLoop if the last element is a symbolic link
	Mode      fs.FileMode // exact permission bits of a new file; 0: 0644
}

// WriteOptions says how to write a whole file.
type WriteOptions struct {
	Mode      fs.FileMode // exact permission bits; 0: those of the replaced file, else 0644
	Exclusive bool        // ErrExists if something exists at the path
	Size      int64       // bytes that r will yield, if known: lets a quota refuse early, where they are many before any is read; 0: unknown

	// NextData, if not nil, says where the data of a sparse file belongs, so that
	// its holes need not be read, sent or written. Each call returns a range: the next
	// n bytes of r are what the file holds from off on, and exactly these are read
	// from r before the next call. Ranges ascend and end within Size, which here is
	// the size of the file; io.EOF: there are no more. What no range covers reads as
	// zeros and is charged like data; where Caps.Holes it takes no storage.
	// io.ErrUnexpectedEOF: r ended within a range.
	NextData func(ctx context.Context) (off, n int64, err error)

	// Meta, if not nil, is metadata that the file gets before it has its name, so that others
	// never see it without, and in the same call. ErrUnsupported unless Caps.WriteMeta.
	Meta *FileMeta
}

// RefuseMeta returns the error of a backend without Caps.WriteMeta.
func (o *WriteOptions) RefuseMeta() error {
	if o.Meta == nil {
		return nil
	}
	return Errorf(ErrUnsupported, "metadata is not taken with the content here; set it when the file is written")
}

// FileMeta is the metadata of a file that is written.
type FileMeta struct {
	Mode     fs.FileMode // permission, setuid, setgid and sticky bits, exactly; WriteOptions.Mode does not matter
	UID, GID int         // -1: those that any new file gets
	Mtime    time.Time   // the access time as well; zero: the time of the write
}

// RenameOptions says how to rename.
type RenameOptions struct {
	NoReplace bool // ErrExists if the target exists
}

// CopyOptions says how to copy.
type CopyOptions struct {
	NoReplace bool // ErrExists if the target exists
}

// Entry describes a file, directory, link or node.
type Entry struct {
	Name      string      `json:"name"` // last element of the path; "." for the root
	Mode      fs.FileMode `json:"mode"`
	Size      int64       `json:"size"`      // bytes; a link's is the length of its target
	Allocated int64       `json:"allocated"` // bytes of storage it takes
	UID       uint32      `json:"uid"`
	GID       uint32      `json:"gid"`
	Nlink     uint64      `json:"nlink"`
	Inode     uint64      `json:"inode"` // the same for all names of one file
	Rdev      uint64      `json:"rdev"`  // of a device, as Linux's makedev(3) makes it
	Atime     time.Time   `json:"atime"`
	Mtime     time.Time   `json:"mtime"`
	Ctime     time.Time   `json:"ctime"`

	// NoXattrs says that it has no extended attributes that a copy keeps, so that none need
	// be asked for. false: perhaps it has.
	NoXattrs bool `json:"-"`
}

// IsDir reports whether e is a directory.
func (e Entry) IsDir() bool { return e.Mode.IsDir() }

// Statfs tells how large a volume is. All figures in bytes, but for the counts.
type Statfs struct {
	Total int64 `json:"total"` // the quota, or what the volume could grow to
	Used  int64 `json:"used"`  // as Info.Used
	Free  int64 `json:"free"`  // what may still be written
	Files int64 `json:"files"` // inodes that could still be made; -1: no limit known
	// Allocated is the storage that the image of a disk volume takes; 0: not a disk.
	Allocated int64 `json:"allocated,omitempty"`
}
