package vole

import "github.com/volehq/vole/driver"

// The types that cross the seam to the drivers, by their names here.
type (
	Size           = driver.Size
	Kind           = driver.Kind
	State          = driver.State
	Labels         = driver.Labels
	Selector       = driver.Selector
	Spec           = driver.Spec
	Info           = driver.Info
	Filter         = driver.Filter
	Page           = driver.Page
	Update         = driver.Update
	Caps           = driver.Caps
	AttachOptions  = driver.AttachOptions
	AttachmentInfo = driver.AttachmentInfo
	CheckOptions   = driver.CheckOptions
	Finding        = driver.Finding
	FSOptions      = driver.FSOptions
	Entry          = driver.Entry
	Statfs         = driver.Statfs
	DirOptions     = driver.DirOptions
	OpenOptions    = driver.OpenOptions
	WriteOptions   = driver.WriteOptions
	FileMeta       = driver.FileMeta
	RenameOptions  = driver.RenameOptions
	CopyOptions    = driver.CopyOptions
	Error          = driver.Error
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
