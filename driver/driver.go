// Package driver defines the two seams of Vole and the types that cross them.
//
// A [Backend] keeps volumes: it creates, finds, lists, changes and removes them,
// and hands out attachments. An [FS] is one open volume: POSIX-shaped operations on
// its files, by path and by handle. Package vole is the only caller that programs
// need; it validates every argument, applies defaults and wraps errors, so a driver
// may rely on what this package's Validate functions promise and need not repeat it.
//
// # Model
//
// A volume is a named, persistent tree of files. Its id (a UUIDv7, RFC 9562) never
// changes and is never used again; its name may change, and may be given to another
// volume once it is free. Everything that acts on a volume acts on an id, so that a
// stale handle can never touch a successor that took the name.
//
// A volume is of kind [KindDir] (files kept as files) or [KindDisk] (one raw image
// holding ext4). A dir volume may have a quota, a disk volume has a capacity.
//
// # Units and ownership
//
// Sizes are bytes ([Size]) and times are UTC. Paths that reach a driver are in the
// form of [io/fs.ValidPath]: slash-separated, without a leading slash, "." for the
// root. The caller closes each Backend, FS, File, Dir or Attachment that it opened; closing
// twice is allowed, and every other call after it returns [ErrClosed].
//
// # Errors
//
// Drivers return errors that match one of this package's sentinels under
// [errors.Is]; they do not wrap them in [Error], which package vole does, once.
package driver

import (
	"context"
	"os"
	"time"
)

// Kind tells how a volume keeps its files.
type Kind string

const (
	KindDir  Kind = "dir"  // files kept as files by the backend
	KindDisk Kind = "disk" // one raw sparse image holding ext4
)

// State is where a volume stands in its life. But for a draft to its maker, a Backend
// returns ready volumes only; the other states exist between a crash and the recovery
// that ends them.
type State string

const (
	StateCreating State = "creating" // a draft, too
	StateReady    State = "ready"
	StateRemoving State = "removing"
)

// Spec describes a new volume. The zero Spec is a dir volume without limits.
type Spec struct {
	Kind     Kind   // default KindDir
	Quota    Size   // most bytes a dir volume may hold; 0: no quota
	Capacity Size   // size of a disk volume's image, rounded up to 4 KiB; required for KindDisk, refused for KindDir
	Labels   Labels // default none

	// Draft makes a volume that its maker fills before others see it. It has its name,
	// but is found by its id only, is in no listing, and counts as not there; every other
	// method takes its id. Update.Publish makes it a volume like any other. When the
	// process that made it dies before, or closes the Backend, it is gone.
	Draft bool

	// From is the id of a volume whose files and attributes the new one begins with;
	// "": it is empty. No bytes are moved, and later changes of either are its own.
	From string
}

// Info describes a volume as it was when the call that returned it ran.
type Info struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Kind     Kind      `json:"kind"`
	State    State     `json:"state"`
	Quota    Size      `json:"quota,omitempty"`    // 0: none
	Capacity Size      `json:"capacity,omitempty"` // 0: not a disk
	Labels   Labels    `json:"labels"`
	Created  time.Time `json:"created"`
	Updated  time.Time `json:"updated"` // last change of name, limits or labels

	// LastUsed is when the volume was made, changed (its files, too), attached or detached
	// last; a volume is in use as long as it is attached. Each use makes it later than it
	// was. Keeping it costs no write besides those of the use itself. Zero: a server of an
	// older version does not tell.
	LastUsed time.Time `json:"last_used,omitzero"`

	// Used is what the volume's files hold: the sum of the sizes of its regular
	// files, each inode once however many names it has.
	Used Size `json:"used"`
	// UsedStale is true when Used may be wrong: something wrote past the FS (a
	// sandbox through a plain mount) or a writer died before it could settle.
	// Measure makes it exact again.
	UsedStale bool `json:"used_stale"`

	// Generation grows with every change of the volume or its files, where the backend
	// counts them (0: it does not).
	Generation int64 `json:"generation,omitempty"`

	// Backend is that which keeps the volume, as Caps.Backend.
	Backend string `json:"backend"`
	// HostPath is where the volume lies on this host, absolute: the directory of its files,
	// made at first use, or the image of a disk. Using it needs an attachment (see
	// AttachOptions.HostPath). "": the backend has no such place.
	HostPath string `json:"host_path,omitempty"`
	// Of a disk volume: the format of its image, the file system in it, and where the image
	// is, as HostPath.
	DiskFormat     string `json:"disk_format,omitempty"`
	DiskFilesystem string `json:"disk_fstype,omitempty"`
	ImagePath      string `json:"image_path,omitempty"`
}

// What the images of all disk volumes are.
const (
	DiskFormat     = "raw"
	DiskFilesystem = "ext4"
)

// At returns i as a volume that the backend of that name keeps; hostPath is Info.HostPath.
func (i Info) At(backend, hostPath string) Info {
	i.Backend, i.HostPath = backend, hostPath
	if i.Kind == KindDisk {
		i.DiskFormat, i.DiskFilesystem, i.ImagePath = DiskFormat, DiskFilesystem, hostPath
	}
	return i
}

// Ref names one volume: by ID when ID is set, otherwise by Name.
type Ref struct {
	ID   string
	Name string
}

// ByID returns the Ref of the volume with the given id.
func ByID(id string) Ref { return Ref{ID: id} }

// ByName returns the Ref of the volume that has the given name now.
func ByName(name string) Ref { return Ref{Name: name} }

func (r Ref) String() string {
	if r.ID != "" {
		return r.ID
	}
	return r.Name
}

// Filter selects volumes of a listing. The zero Filter selects all.
type Filter struct {
	Selector Selector // on labels; zero: all
	Kind     Kind     // "": any
	Cursor   string   // Page.Next of the page before; "": from the newest
	Limit    int      // most volumes of one page; 0: the backend's own (at most 1000)
}

// Page is one part of a listing, newest volume first.
type Page struct {
	Volumes []Info
	Next    string // cursor of the next page; "": this was the last
}

// Update says what to change about a volume. Zero fields stay as they are.
type Update struct {
	Name         string // new name
	Quota        Size   // new quota of a dir volume
	ClearQuota   bool   // take the quota away; not together with Quota
	Capacity     Size   // new, larger capacity of a disk volume
	SetLabels    Labels // added, or replaced when the key is there
	RemoveLabels []string
	Publish      bool // make a draft a ready volume; nothing, if it is one
}

// AttachOptions says how to attach a volume.
type AttachOptions struct {
	// Holder names the consumer in listings and in the errors that others get:
	// 1 to 128 bytes of printable UTF-8. Default: the program's name and pid.
	Holder string
	// ReadOnly asks for the right to read only.
	ReadOnly bool
	// HostPath says that the holder will use the files by their path on the host,
	// past the FS. Attached so, a writable dir volume with a quota is refused with
	// ErrUnsupported, and the usage of one without is stale until the last such
	// holder detaches.
	HostPath bool
	// Exclusive asks for what disk volumes always have: a writer is alone, readers have
	// no writer beside them. While an exclusive writer is attached, files are changed
	// only by an FS that was opened under its attachment (FSOptions.Attachment).
	Exclusive bool

	// Host, PID and Started are what AttachmentInfo is to say of the holder when a
	// server attaches for another process, where Caps.Leases. Default: this process.
	Host    string
	PID     int
	Started time.Time
}

// AttachmentInfo describes one consumer's right to use a volume.
type AttachmentInfo struct {
	ID        string    `json:"id"`
	VolumeID  string    `json:"volume_id"`
	Volume    string    `json:"volume"` // the volume's name when this was read
	Holder    string    `json:"holder"`
	ReadOnly  bool      `json:"read_only"`
	HostPath  bool      `json:"host_path"`
	Exclusive bool      `json:"exclusive"`
	Host      string    `json:"host"`    // host name of the holder
	PID       int       `json:"pid"`     // the holder's process on that host
	Started   time.Time `json:"started"` // when that process started
	Since     time.Time `json:"since"`   // when it attached
}

// Attachment is a held right to use a volume. It ends with Detach, or by itself
// when the process that holds it dies.
type Attachment interface {
	// Info describes the attachment.
	Info() AttachmentInfo
	// Path is where the volume's files (dir) or image (disk) lie on this host,
	// absolute; "" when the backend has no such place.
	Path() string
	// Hold is the open file by which a disk volume's image is held, nil where there is
	// none. A process that inherits it goes on holding the image when this one dies.
	// It is not to be closed, nor used for anything else.
	Hold() *os.File
	// Detach gives the right back, after which Path must not be used. When this was
	// the last writable HostPath attachment of a dir volume, it measures the volume;
	// where that fails (ctx ends, say) the usage stays stale, and Detach succeeds.
	// Detaching twice does nothing.
	Detach(ctx context.Context) error
}

// FSOptions says how to open a volume's files.
type FSOptions struct {
	ReadOnly bool // every change is refused with ErrReadOnly
	// Batch makes changes durable together at FS.Sync, not one by one as they
	// return. A crash before Sync leaves some of them, never a torn file.
	Batch bool
	// Attachment is the id of a writable attachment of the volume under which its files
	// are changed; "": none. Once the attachment has ended, also when its lease
	// expired while this host was cut off, every change fails with ErrClosed and has no effect.
	Attachment string
}

// CheckOptions says what a consistency check does.
type CheckOptions struct {
	Fix bool // repair what is found

	// Progress, if not nil, is called with how many of the volumes have been checked, by backends
	// that know.
	Progress func(done, total int64)
}

// Finding is one inconsistency that a check found.
type Finding struct {
	Code   string `json:"code"`             // stable, e.g. "orphan-directory"
	Volume string `json:"volume,omitempty"` // id of the volume concerned
	Path   string `json:"path,omitempty"`   // place concerned, relative to the home
	Detail string `json:"detail"`           // what is wrong, and what the repair did or would do
	Fixed  bool   `json:"fixed"`
}

// Caps says what a backend can do. What is not claimed is refused with
// ErrUnsupported; package conformance checks both ways.
type Caps struct {
	Backend  string // "local", "bucket", "cloud"
	Dir      bool   // dir volumes
	Disk     bool   // disk volumes
	Quota    bool   // quotas on dir volumes
	HostPath bool   // Attachment.Path is a place on this host
	ReadOnly bool   // opened read-only: every change is refused with ErrReadOnly
	Links    bool   // hard and symbolic links
	Xattrs   bool   // extended attributes in the "user." namespace
	Chown    bool   // arbitrary owners
	Devices  bool   // device nodes (fifos are always possible)
	Holes    bool   // holes are kept and reported
	Drafts   bool   // Spec.Draft
	Leases   bool   // AttachOptions.Exclusive and FSOptions.Attachment, on dir volumes
	Clones   bool   // Spec.From

	WriteMeta bool // WriteOptions.Meta; vole.FS makes up for it where it is not
}

// Backend is the first seam: where volumes live. All methods may be called from any
// number of goroutines. A method that waits for a lock ends when ctx does, and the
// error then says who held the lock.
type Backend interface {
	// Caps tells what this backend can do. It does not change while open.
	Caps() Caps

	// Create makes a ready volume, empty but for Spec.From. The name and spec are valid,
	// and spec.Kind is set. ErrExists: the name is taken, or is the id of a volume;
	// ErrUnsupported: the kind or a limit is not available; ErrNoSpace; ErrNotFound:
	// there is no volume Spec.From; ErrQuota: it holds more than the new quota.
	Create(ctx context.Context, name string, spec Spec) (Info, error)

	// Get returns one ready volume. ErrNotFound.
	Get(ctx context.Context, ref Ref) (Info, error)

	// List returns one page of the ready volumes, newest first. Volumes that are made or
	// removed during the listing may or may not appear; all others appear exactly once.
	// ErrInvalid: the cursor is not one of this backend's.
	List(ctx context.Context, filter Filter) (Page, error)

	// Update changes a volume in one step and returns it as it is then.
	// ErrNotFound; ErrExists: the new name is taken; ErrQuota: the volume holds more
	// than the new quota; ErrInUse: a writable HostPath attachment forbids a quota;
	// ErrInvalid: the change does not fit the kind, or too many labels.
	Update(ctx context.Context, id string, change Update) (Info, error)

	// Remove removes a volume and all it holds, and returns what it removed. The
	// volume is gone for everyone when the call returns, open FS included.
	// ErrNotFound; ErrInUse: it is attached, and the error names a holder.
	Remove(ctx context.Context, ref Ref) (Info, error)

	// RemoveUnused is Remove for a volume that was not used after since, an Info.LastUsed.
	// No use comes between the look at that and the removal. ErrNotFound; ErrInUse: it
	// was used, or it is attached, or the files of a disk volume are open.
	RemoveUnused(ctx context.Context, id string, since time.Time) (Info, error)

	// Measure counts the bytes a volume holds, corrects its Used, and returns it.
	// The figure stays stale while a writable HostPath attachment lasts. ErrNotFound.
	Measure(ctx context.Context, id string) (Info, error)

	// OpenFS opens a volume's files. ErrNotFound; ErrInUse: another holder of a disk volume
	// conflicts, including a reader in this process when opening for writing.
	OpenFS(ctx context.Context, id string, opts FSOptions) (FS, error)

	// Attach takes the right to use a volume. opts.Holder is set. ErrNotFound;
	// ErrInUse: a disk volume has a writer, or readers; ErrUnsupported: see HostPath.
	Attach(ctx context.Context, id string, opts AttachOptions) (Attachment, error)

	// Attachments lists the live attachments of one volume, or of all when id is
	// "", oldest first.
	Attachments(ctx context.Context, id string) ([]AttachmentInfo, error)

	// Check looks for inconsistencies, usage included, and calls report for each.
	// An error of report ends the check and is returned.
	Check(ctx context.Context, opts CheckOptions, report func(Finding) error) error

	// Close ends the use of the backend: attachments it handed out end, FSes
	// opened from it are closed.
	Close() error
}
