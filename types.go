package vole

import "github.com/volehq/vole/driver"

//go:generate go run ./internal/testing/aliasdoc

// The types that cross the seam to the drivers, by their names here.
type (
	// Size is a number of bytes.
	//
	//	const (
	//		KiB Size = 1 << 10
	//		MiB Size = 1 << 20
	//		GiB Size = 1 << 30
	//		TiB Size = 1 << 40
	//	)
	//
	//	func (s Size) Human() string
	//
	//	func (s Size) String() string
	Size = driver.Size

	// Kind tells how a volume keeps its files.
	//
	//	const (
	//		KindDir  Kind = "dir"  // files kept as files by the backend
	//		KindDisk Kind = "disk" // one raw sparse image holding ext4
	//	)
	Kind = driver.Kind

	// State is where a volume stands in its life. But for a draft to its maker, a Backend
	// returns ready volumes only; the other states exist between a crash and the recovery
	// that ends them.
	//
	//	const (
	//		StateCreating State = "creating" // a draft, too
	//		StateReady    State = "ready"
	//		StateRemoving State = "removing"
	//	)
	State = driver.State

	// Labels are a volume's labels, by key.
	//
	//	func (l Labels) Validate() error
	Labels = driver.Labels

	// Selector selects volumes by their labels: all its terms must hold. The zero
	// Selector selects everything.
	//
	//	type Selector struct {
	//		// contains filtered or unexported fields
	//	}
	//
	//	func (s Selector) IsZero() bool
	//
	//	func (s Selector) Matches(l Labels) bool
	//
	//	func (s Selector) String() string
	Selector = driver.Selector

	// Spec describes a new volume. The zero Spec is a dir volume without limits.
	//
	//	type Spec struct {
	//		Kind     Kind   // default KindDir
	//		Quota    Size   // most bytes a dir volume may hold; 0: no quota
	//		Capacity Size   // size of a disk volume's image, rounded up to 4 KiB; required for KindDisk, refused for KindDir
	//		Labels   Labels // default none
	//
	//		// Draft makes a volume that its maker fills before others see it. It has its name,
	//		// but is found by its id only, is in no listing, and counts as not there; every other
	//		// method takes its id. Update.Publish makes it a volume like any other. When the
	//		// process that made it dies before, or closes the Backend, it is gone.
	//		Draft bool
	//
	//		// From is the id of a volume whose files and attributes the new one begins with;
	//		// "": it is empty. No bytes are moved, and later changes of either are its own.
	//		From string
	//	}
	//
	//	func (s Spec) Fits(have Info) error
	//
	//	func (s Spec) Validate() error
	Spec = driver.Spec

	// Info describes a volume as it was when the call that returned it ran.
	//
	//	type Info struct {
	//		ID       string    `json:"id"`
	//		Name     string    `json:"name"`
	//		Kind     Kind      `json:"kind"`
	//		State    State     `json:"state"`
	//		Quota    Size      `json:"quota,omitempty"`    // 0: none
	//		Capacity Size      `json:"capacity,omitempty"` // 0: not a disk
	//		Labels   Labels    `json:"labels"`
	//		Created  time.Time `json:"created"`
	//		Updated  time.Time `json:"updated"` // last change of name, limits or labels
	//
	//		// LastUsed is when the volume was made, changed (its files, too), attached or detached
	//		// last; a volume is in use as long as it is attached. Each use makes it later than it
	//		// was. Keeping it costs no write besides those of the use itself. Zero: a server of an
	//		// older version does not tell.
	//		LastUsed time.Time `json:"last_used,omitzero"`
	//
	//		// Used is what the volume's files hold: the sum of the sizes of its regular
	//		// files, each inode once however many names it has.
	//		Used Size `json:"used"`
	//		// UsedStale is true when Used may be wrong: something wrote past the FS (a
	//		// sandbox through a plain mount) or a writer died before it could settle.
	//		// Measure makes it exact again.
	//		UsedStale bool `json:"used_stale"`
	//
	//		// Generation grows with every change of the volume or its files, where the backend
	//		// counts them (0: it does not).
	//		Generation int64 `json:"generation,omitempty"`
	//
	//		// Backend is that which keeps the volume, as Caps.Backend.
	//		Backend string `json:"backend"`
	//		// HostPath is where the volume lies on this host, absolute: the directory of its files,
	//		// made at first use, or the image of a disk. Using it needs an attachment (see
	//		// AttachOptions.HostPath). "": the backend has no such place.
	//		HostPath string `json:"host_path,omitempty"`
	//		// Of a disk volume: the format of its image, the file system in it, and where the image
	//		// is, as HostPath.
	//		DiskFormat     string `json:"disk_format,omitempty"`
	//		DiskFilesystem string `json:"disk_fstype,omitempty"`
	//		ImagePath      string `json:"image_path,omitempty"`
	//	}
	//
	//	func (i Info) At(backend, hostPath string) Info
	Info = driver.Info

	// Filter selects volumes of a listing. The zero Filter selects all.
	//
	//	type Filter struct {
	//		Selector Selector // on labels; zero: all
	//		Kind     Kind     // "": any
	//		Cursor   string   // Page.Next of the page before; "": from the newest
	//		Limit    int      // most volumes of one page; 0: the backend's own (at most 1000)
	//	}
	Filter = driver.Filter

	// Page is one part of a listing, newest volume first.
	//
	//	type Page struct {
	//		Volumes []Info
	//		Next    string // cursor of the next page; "": this was the last
	//	}
	Page = driver.Page

	// Update says what to change about a volume. Zero fields stay as they are.
	//
	//	type Update struct {
	//		Name         string // new name
	//		Quota        Size   // new quota of a dir volume
	//		ClearQuota   bool   // take the quota away; not together with Quota
	//		Capacity     Size   // new, larger capacity of a disk volume
	//		SetLabels    Labels // added, or replaced when the key is there
	//		RemoveLabels []string
	//		Publish      bool // make a draft a ready volume; nothing, if it is one
	//	}
	//
	//	func (u Update) Validate() error
	Update = driver.Update

	// Caps says what a backend can do. What is not claimed is refused with
	// ErrUnsupported; package conformance checks both ways.
	//
	//	type Caps struct {
	//		Backend  string // "local", "bucket", "cloud"
	//		Dir      bool   // dir volumes
	//		Disk     bool   // disk volumes
	//		Quota    bool   // quotas on dir volumes
	//		HostPath bool   // Attachment.Path is a place on this host
	//		ReadOnly bool   // opened read-only: every change is refused with ErrReadOnly
	//		Links    bool   // hard and symbolic links
	//		Xattrs   bool   // extended attributes in the "user." namespace
	//		Chown    bool   // arbitrary owners
	//		Devices  bool   // device nodes (fifos are always possible)
	//		Holes    bool   // holes are kept and reported
	//		Drafts   bool   // Spec.Draft
	//		Leases   bool   // AttachOptions.Exclusive and FSOptions.Attachment, on dir volumes
	//		Clones   bool   // Spec.From
	//
	//		WriteMeta bool // WriteOptions.Meta; vole.FS makes up for it where it is not
	//	}
	Caps = driver.Caps

	// AttachOptions says how to attach a volume.
	//
	//	type AttachOptions struct {
	//		// Holder names the consumer in listings and in the errors that others get:
	//		// 1 to 128 bytes of printable UTF-8. Default: the program's name and pid.
	//		Holder string
	//		// ReadOnly asks for the right to read only.
	//		ReadOnly bool
	//		// HostPath says that the holder will use the files by their path on the host,
	//		// past the FS. Attached so, a writable dir volume with a quota is refused with
	//		// ErrUnsupported, and the usage of one without is stale until the last such
	//		// holder detaches.
	//		HostPath bool
	//		// Exclusive asks for what disk volumes always have: a writer is alone, readers have
	//		// no writer beside them. While an exclusive writer is attached, files are changed
	//		// only by an FS that was opened under its attachment (FSOptions.Attachment).
	//		Exclusive bool
	//
	//		// Host, PID and Started are what AttachmentInfo is to say of the holder when a
	//		// server attaches for another process, where Caps.Leases. Default: this process.
	//		Host    string
	//		PID     int
	//		Started time.Time
	//	}
	AttachOptions = driver.AttachOptions

	// AttachmentInfo describes one consumer's right to use a volume.
	//
	//	type AttachmentInfo struct {
	//		ID        string    `json:"id"`
	//		VolumeID  string    `json:"volume_id"`
	//		Volume    string    `json:"volume"` // the volume's name when this was read
	//		Holder    string    `json:"holder"`
	//		ReadOnly  bool      `json:"read_only"`
	//		HostPath  bool      `json:"host_path"`
	//		Exclusive bool      `json:"exclusive"`
	//		Host      string    `json:"host"`    // host name of the holder
	//		PID       int       `json:"pid"`     // the holder's process on that host
	//		Started   time.Time `json:"started"` // when that process started
	//		Since     time.Time `json:"since"`   // when it attached
	//	}
	AttachmentInfo = driver.AttachmentInfo

	// CheckOptions says what a consistency check does.
	//
	//	type CheckOptions struct {
	//		Fix bool // repair what is found
	//
	//		// Progress, if not nil, is called with how many of the volumes have been checked, by backends
	//		// that know.
	//		Progress func(done, total int64)
	//	}
	CheckOptions = driver.CheckOptions

	// Finding is one inconsistency that a check found.
	//
	//	type Finding struct {
	//		Code   string `json:"code"`             // stable, e.g. "orphan-directory"
	//		Volume string `json:"volume,omitempty"` // id of the volume concerned
	//		Path   string `json:"path,omitempty"`   // place concerned, relative to the home
	//		Detail string `json:"detail"`           // what is wrong, and what the repair did or would do
	//		Fixed  bool   `json:"fixed"`
	//	}
	Finding = driver.Finding

	// FSOptions says how to open a volume's files.
	//
	//	type FSOptions struct {
	//		ReadOnly bool // every change is refused with ErrReadOnly
	//		// Batch makes changes durable together at FS.Sync, not one by one as they
	//		// return. A crash before Sync leaves some of them, never a torn file.
	//		Batch bool
	//		// Attachment is the id of a writable attachment of the volume under which its files
	//		// are changed; "": none. Once the attachment has ended, also when its lease
	//		// expired while this host was cut off, every change fails with ErrClosed and has no effect.
	//		Attachment string
	//	}
	FSOptions = driver.FSOptions

	// Entry describes a file, directory, link or node.
	//
	//	type Entry struct {
	//		Name      string      `json:"name"` // last element of the path; "." for the root
	//		Mode      fs.FileMode `json:"mode"`
	//		Size      int64       `json:"size"`      // bytes; a link's is the length of its target
	//		Allocated int64       `json:"allocated"` // bytes of storage it takes
	//		UID       uint32      `json:"uid"`
	//		GID       uint32      `json:"gid"`
	//		Nlink     uint64      `json:"nlink"`
	//		Inode     uint64      `json:"inode"` // the same for all names of one file
	//		Rdev      uint64      `json:"rdev"`  // of a device, as Linux's makedev(3) makes it
	//		Atime     time.Time   `json:"atime"`
	//		Mtime     time.Time   `json:"mtime"`
	//		Ctime     time.Time   `json:"ctime"`
	//
	//		// NoXattrs says that it has no extended attributes that a copy keeps, so that none need
	//		// be asked for. false: perhaps it has.
	//		NoXattrs bool `json:"-"`
	//	}
	//
	//	func (e Entry) IsDir() bool
	Entry = driver.Entry

	// Statfs tells how large a volume is. All figures in bytes, but for the counts.
	//
	//	type Statfs struct {
	//		Total int64 `json:"total"` // the quota, or what the volume could grow to
	//		Used  int64 `json:"used"`  // as Info.Used
	//		Free  int64 `json:"free"`  // what may still be written
	//		Files int64 `json:"files"` // inodes that could still be made; -1: no limit known
	//		// Allocated is the storage that the image of a disk volume takes; 0: not a disk.
	//		Allocated int64 `json:"allocated,omitempty"`
	//	}
	Statfs = driver.Statfs

	// DirOptions says how to list. The zero value lists whole entries in any order, in
	// memory that does not grow with the directory.
	//
	//	type DirOptions struct {
	//		Sorted    bool // by name, bytewise; the names may be held in memory
	//		NamesOnly bool // only Name and the type bits of Mode are set: cheaper
	//	}
	DirOptions = driver.DirOptions

	// OpenOptions says how to open a file. The zero value reads.
	//
	//	type OpenOptions struct {
	//		Write     bool        // reading and writing
	//		Append    bool        // writes go to the end only, by Append; implies Write
	//		Create    bool        // make the file if it is missing; implies Write
	//		Exclusive bool        // with Create: ErrExists if there
	//		Truncate  bool        // with Write: empty it
	//		NoFollow  bool        // ErrLoop if the last element is a symbolic link
	//		Mode      fs.FileMode // exact permission bits of a new file; 0: 0644
	//	}
	OpenOptions = driver.OpenOptions

	// WriteOptions says how to write a whole file.
	//
	//	type WriteOptions struct {
	//		Mode      fs.FileMode // exact permission bits; 0: those of the replaced file, else 0644
	//		Exclusive bool        // ErrExists if something exists at the path
	//		Size      int64       // bytes that r will yield, if known: lets a quota refuse early, where they are many before any is read; 0: unknown
	//
	//		// NextData, if not nil, says where the data of a sparse file belongs, so that
	//		// its holes need not be read, sent or written. Each call returns a range: the next
	//		// n bytes of r are what the file holds from off on, and exactly these are read
	//		// from r before the next call. Ranges ascend and end within Size, which here is
	//		// the size of the file; io.EOF: there are no more. What no range covers reads as
	//		// zeros and is charged like data; where Caps.Holes it takes no storage.
	//		// io.ErrUnexpectedEOF: r ended within a range.
	//		NextData func(ctx context.Context) (off, n int64, err error)
	//
	//		// Meta, if not nil, is metadata that the file gets before it has its name, so that others
	//		// never see it without, and in the same call. ErrUnsupported unless Caps.WriteMeta.
	//		Meta *FileMeta
	//	}
	//
	//	func (o *WriteOptions) RefuseMeta() error
	WriteOptions = driver.WriteOptions

	// FileMeta is the metadata of a file that is written.
	//
	//	type FileMeta struct {
	//		Mode     fs.FileMode // permission, setuid, setgid and sticky bits, exactly; WriteOptions.Mode does not matter
	//		UID, GID int         // -1: those that any new file gets
	//		Mtime    time.Time   // the access time as well; zero: the time of the write
	//	}
	FileMeta = driver.FileMeta

	// RenameOptions says how to rename.
	//
	//	type RenameOptions struct {
	//		NoReplace bool // ErrExists if the target exists
	//	}
	RenameOptions = driver.RenameOptions

	// CopyOptions says how to copy.
	//
	//	type CopyOptions struct {
	//		NoReplace bool // ErrExists if the target exists
	//	}
	CopyOptions = driver.CopyOptions

	// Error is the one wrapper that Vole puts around an error, at its boundary.
	//
	//	type Error struct {
	//		Op     string // the operation, e.g. "create"
	//		Volume string // the volume's name or id, "" when none is concerned
	//		Path   string // the path inside the volume, "" when none is concerned
	//		Err    error  // matches one of the sentinels, or is the system's own
	//	}
	//
	//	func (e *Error) Error() string
	//
	//	func (e *Error) Unwrap() error
	Error = driver.Error
)

const (
	KiB = driver.KiB
	MiB = driver.MiB
	GiB = driver.GiB
	TiB = driver.TiB

	KindDir  = driver.KindDir
	KindDisk = driver.KindDisk
)

// The sentinels that every error matches under errors.Is; driver explains each.
var (
	ErrNotFound    = driver.ErrNotFound
	ErrNoSuch      = driver.ErrNoSuch
	ErrExists      = driver.ErrExists
	ErrInUse       = driver.ErrInUse
	ErrInvalid     = driver.ErrInvalid
	ErrUnsupported = driver.ErrUnsupported
	ErrQuota       = driver.ErrQuota
	ErrNoSpace     = driver.ErrNoSpace
	ErrPermission  = driver.ErrPermission
	ErrReadOnly    = driver.ErrReadOnly
	ErrClosed      = driver.ErrClosed
	ErrCorrupt     = driver.ErrCorrupt
	ErrPathEscape  = driver.ErrPathEscape
	ErrNotExist    = driver.ErrNotExist
	ErrNotDir      = driver.ErrNotDir
	ErrIsDir       = driver.ErrIsDir
	ErrNotEmpty    = driver.ErrNotEmpty
	ErrLoop        = driver.ErrLoop
	ErrNoXattr     = driver.ErrNoXattr
	ErrUnavailable = driver.ErrUnavailable
)

// ParseSize parses a size such as "512M", "1.5G" or "20GiB" (powers of 1024).
func ParseSize(s string) (Size, error) { return driver.ParseSize(s) }

// ParseSelector parses label terms: "k", "k=v", "k!=v", separated by commas.
func ParseSelector(s string) (Selector, error) { return driver.ParseSelector(s) }
