//go:build unix

package disk

import (
	"context"
	"errors"
	"os"
	"sync"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/ballast"
	"github.com/volehq/vole/internal/fault"
	"github.com/volehq/vole/internal/openset"
)

// Home is what a Set needs to know of the home that its volumes belong to. Errors match the
// sentinels of driver.
type Home interface {
	// Get describes a volume. ErrNotFound: it does not exist.
	Get(ctx context.Context, ref driver.Ref) (driver.Info, error)
	// Counter returns the usage counter of a volume for one user.
	Counter(id string) Counter
	// RecordCapacity records the size of a volume's image.
	RecordCapacity(ctx context.Context, id string, capacity driver.Size) error
	// RefuseAttached returns ErrInUse, naming the holder, if the volume is attached.
	RefuseAttached(ctx context.Context, id string) error
	// ReadOnlyError is the error of a change to files that are open for reading only.
	ReadOnlyError() error
}

// Counter charges the use of one volume. All processes that change its files share the charge.
type Counter interface {
	// BeginChange records a use of the files. The first call begins the counting.
	BeginChange(ctx context.Context) error
	// AddBytes corrects the bytes used; false: the counting has not begun.
	AddBytes(more int64) bool
	// Release ends the counting. stale says that the bytes used may be wrong.
	Release(stale bool)
}

// Options says where a Set keeps its volumes, and what it shares with the home.
type Options struct {
	Home     Home
	Volumes  *os.File         // the directory that has a directory for each volume, named by its id
	Opened   *openset.Set     // gets the file systems and files that are opened
	Ballast  *ballast.Ballast // space for operations that free space
	Faults   *fault.Injector  // of tests
	ReadOnly bool             // no image is written
	// RefuseDevices is the error of making a device node; nil: they may be made.
	RefuseDevices error
}

// Set has the disk volumes of one home.
type Set struct {
	Options

	mu       sync.Mutex // guards what follows, and the references of each sharedFS
	shared   map[shareKey]*sharedFS
	removals map[string]chan struct{} // volumes that this process removes; closed when it has tried
}

// NewSet returns the disk volumes of a home. Its parts stay the caller's.
func NewSet(opts Options) *Set {
	return &Set{Options: opts, shared: map[shareKey]*sharedFS{}, removals: map[string]chan struct{}{}}
}

// Volume is one volume of a Set, which need not exist.
type Volume struct {
	*Set
	id string
}

// Volume returns the volume of an id.
func (s *Set) Volume(id string) Volume { return Volume{s, id} }

// lookUpInfo describes the volume.
func (v Volume) lookUpInfo(ctx context.Context) (driver.Info, error) {
	return v.Home.Get(ctx, driver.ByID(v.id))
}

// RoundSize returns the size of an image with at least capacity bytes: a multiple of 4096, the
// block size.
func RoundSize(capacity driver.Size) (driver.Size, error) {
	const unit = 4096
	if capacity < ext4.MinSize || capacity > ext4.MaxSize {
		return 0, driver.Errorf(driver.ErrInvalid, "a disk volume has %s to %s, not %s",
			driver.Size(ext4.MinSize), driver.Size(ext4.MaxSize), capacity)
	}
	return (capacity + unit - 1) / unit * unit, nil
}

// SumFiles returns the sum of the sizes of the volume's files. busy: another process has the
// image open, so they cannot be counted now.
func (v Volume) SumFiles(ctx context.Context) (used int64, busy bool, err error) {
	if d := v.acquireSharedIfOpen(); d != nil {
		used, err = d.fs.SumSizes(ctx)
		return used, false, errors.Join(translateError(err), d.release())
	}
	image, err := v.openAtRest(ctx)
	if errors.Is(err, driver.ErrInUse) {
		return 0, true, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer image.Close()
	d, err := ext4.Open(image, ext4.OpenOptions{ReadOnly: true})
	if err != nil {
		return 0, false, translateError(err)
	}
	defer d.Close()
	used, err = d.SumSizes(ctx)
	return used, false, translateError(err)
}
