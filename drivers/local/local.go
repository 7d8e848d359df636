//go:build unix

package local

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/local/internal/disk"
	"github.com/volehq/vole/internal/ballast"
	"github.com/volehq/vole/internal/catalog"
	"github.com/volehq/vole/internal/openset"
	"golang.org/x/sys/unix"
)

// Backend is an open home. Lock order: Backend.mu, then counter.mu; inodesMu, then the lock of a
// counter. Neither is held during a system call or a query.
type Backend struct {
	home     string // absolute
	host     hostFS
	foreign  bool // any user may own it
	devices  bool // device nodes may be made
	readOnly bool
	cause    error // why it is read-only
	ballast  *ballast.Ballast
	clock    func() time.Time
	db       *catalog.DB
	dir      *os.File // the home itself
	volumes  *os.File // the directory volumes/
	locks    *os.File // the directory locks/; nil: read-only, and it does not exist
	syncs    syncGroup

	procMu sync.Mutex              // held while proc is made
	proc   atomic.Pointer[process] // nil until first needed

	inodesMu sync.Mutex              // guards inodes; taken before the lock of a counter
	inodes   map[inodeKey]*openInode // files that this process has open

	mu          sync.Mutex // guards what follows
	closed      bool
	counters    map[string]*counter // by volume, those in use or lately used
	retirements sync.WaitGroup      // of idle counters; added to under mu while not closed
	drafts      map[string]bool     // volumes that this process makes; true: not shared yet

	disks *disk.Set   // the disk volumes
	open  openset.Set // FSes, files and attachments
}

// Open opens the home at the absolute path home, making it when it is missing, and
// finishes or undoes what dead processes left. Where the home cannot be written (a
// full or read-only disk) it is opened for reading only. ErrInvalid: the directory
// holds something else; ErrUnsupported: a newer version made it; ErrPermission: it belongs
// to another user, and opts.ForeignHome is not set; ErrCorrupt: it has links, or a catalog
// of another shape; ErrReadOnly, ErrNoSpace, ErrPermission, ErrNotDir and the like: it is
// missing and cannot be made.
func Open(ctx context.Context, home string, opts Options) (*Backend, error) {
	b, err := openBackend(ctx, home, opts)
	if err != nil {
		return nil, translateHomeError(err)
	}
	return b, nil
}

// openBackend is Open without the translation of errors.
func openBackend(ctx context.Context, home string, opts Options) (*Backend, error) {
	b := &Backend{
		home:     home,
		host:     hostFS{opts.faults},
		foreign:  opts.ForeignHome,
		devices:  !opts.NoDevices && os.Geteuid() == 0 && runtime.GOOS == "linux",
		readOnly: opts.ReadOnly,
		clock:    opts.Clock,
		counters: map[string]*counter{},
		drafts:   map[string]bool{},
		inodes:   map[inodeKey]*openInode{},
	}
	if b.clock == nil {
		b.clock = time.Now
	}
	var err error
	b.dir, err = openHomeDir(home, !opts.ReadOnly, opts.ForeignHome)
	if errors.Is(err, fs.ErrNotExist) && opts.ReadOnly {
		return nil, errNoHome()
	}
	if err != nil {
		return nil, err
	}
	b.ballast = ballast.New(b.dir)
	err = b.openWritable(ctx)
	if err != nil && !opts.ReadOnly && (ballast.NoSpace(translateError(err)) || ballast.NoSpace(b.probeWritable())) {
		done := b.ballast.Lend()
		err = b.openWritable(ctx)
		done()
	}
	if err == nil {
		b.ballast.Keep()
	}
	if cause := b.readOnlyCause(err, opts); cause != nil {
		err = b.openReadOnly(ctx, cause)
	}
	if err != nil {
		b.dir.Close()
		return nil, err
	}
	return b, nil
}

// readOnlyCause decides whether a home that could not be opened for writing, with err, is opened
// for reading only. It returns the reason: err itself, or the error of making a file there. nil:
// it is not.
func (b *Backend) readOnlyCause(err error, opts Options) error {
	if err == nil || errors.Is(err, driver.ErrInvalid) {
		return nil
	}
	if opts.ReadOnly {
		return err
	}
	if probed := b.probeWritable(); isUnwritable(probed) {
		return translateError(probed) // SQLite's own errors do not say which file could not be written
	}
	if isUnwritable(err) {
		return err
	}
	return nil
}

// errWantReadOnly makes openWritable give up at once.
var errWantReadOnly = errors.New("read-only was asked for")

// errNoHome returns ErrNotExist for a home that was never made.
func errNoHome() error {
	return driver.Errorf(driver.ErrNotExist, "no volumes are kept there yet; create one first")
}

// isUnwritable reports whether err means that the home cannot be written.
func isUnwritable(err error) bool {
	err = translateError(err)
	return errors.Is(err, driver.ErrReadOnly) || errors.Is(err, driver.ErrNoSpace) || errors.Is(err, driver.ErrPermission)
}

// openWritable makes the home if it is missing, opens its parts, and recovers from the death of
// other processes.
func (b *Backend) openWritable(ctx context.Context) (err error) {
	if b.readOnly {
		return errWantReadOnly
	}
	defer func() {
		if err != nil {
			b.releaseFiles()
		}
	}()
	if err := b.makeHomeDirs(); err != nil {
		return err
	}
	if err := b.openHomeParts(); err != nil {
		return err
	}
	if b.db, err = b.openCatalog(ctx); err != nil {
		return err
	}
	if err := b.checkCatalogAccess(unix.W_OK); err != nil { // SQLite opens a file that it cannot write, and reports nothing
		return err
	}
	sweepBinds()
	_, err = b.recoverHome(ctx)
	return err
}

const catalogName = "catalog.db"

// openCatalog opens the catalog. SQLite reports little more than that it cannot open something,
// so a lack of rights is found out here.
func (b *Backend) openCatalog(ctx context.Context) (*catalog.DB, error) {
	db, err := catalog.Open(ctx, b.homePath(catalogName), catalog.Options{ReadOnly: b.readOnly, Dir: b.dir, Verify: true, Faults: b.host.faults})
	if err != nil {
		if denied := b.checkCatalogAccess(unix.R_OK); denied != nil {
			return nil, denied // SQLite says no more than that it cannot open something
		}
	}
	return db, err
}

// checkCatalogAccess returns ErrPermission unless this user may access the catalog and the files
// beside it in this mode, R_OK or W_OK.
func (b *Backend) checkCatalogAccess(mode uint32) error {
	for _, name := range []string{catalogName, catalogName + "-wal", catalogName + "-shm"} {
		err := unix.Faccessat(int(b.dir.Fd()), name, mode, 0)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if !errors.Is(err, fs.ErrPermission) {
			return err
		}
		what := "read"
		if mode == unix.W_OK {
			what = "written"
		}
		return driver.Errorf(driver.ErrPermission, "%s cannot be %s by this user", name, what)
	}
	return nil
}

// openReadOnly opens an existing home for reading; cause says why not for writing.
func (b *Backend) openReadOnly(ctx context.Context, cause error) (err error) {
	b.readOnly, b.cause, b.ballast = true, translateError(cause), &ballast.Ballast{}
	if !b.hasCatalog() { // missing, or the first page did not fit on a full disk
		if cause == errWantReadOnly {
			return errNoHome()
		}
		return cause
	}
	defer func() {
		if err != nil {
			b.releaseFiles()
		}
	}()
	if err := b.openHomeParts(); err != nil {
		return err
	}
	b.db, err = b.openCatalog(ctx)
	return err
}

// homePath returns a path in the home.
func (b *Backend) homePath(elem ...string) string {
	return filepath.Join(append([]string{b.home}, elem...)...)
}

// Home is the home's absolute path.
func (b *Backend) Home() string { return b.home }

// Caps implements driver.Backend.
func (b *Backend) Caps() driver.Caps {
	return driver.Caps{
		Backend: "local", Dir: true, Disk: true, Quota: true, HostPath: true, ReadOnly: b.readOnly,
		Links: true, Xattrs: runtime.GOOS == "linux", Chown: os.Geteuid() == 0, Devices: b.devices,
		Holes: runtime.GOOS == "linux", Drafts: true, WriteMeta: true,
	}
}

// checkWritable returns an error if the backend is closed or open for reading only.
func (b *Backend) checkWritable() error {
	if err := b.checkOpen(); err != nil {
		return err
	}
	if b.readOnly && ballast.NoSpace(b.cause) {
		return driver.Errorf(driver.ErrNoSpace, "the disk of the home %s is full, and it is open for reading only; make room beside it", b.home)
	}
	if b.readOnly {
		return driver.Errorf(driver.ErrReadOnly, "the home %s is open for reading only: %v", b.home, b.cause)
	}
	return nil
}

// errReadOnly returns the error of a change to files that are open for reading only.
func (b *Backend) errReadOnly() error {
	if err := b.checkWritable(); errors.Is(err, driver.ErrNoSpace) {
		return err
	}
	return driver.Errorf(driver.ErrReadOnly, "the volume is open for reading only")
}

// checkOpen returns ErrClosed if the backend is closed.
func (b *Backend) checkOpen() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return driver.ErrClosed
	}
	return nil
}

// closeTimeout bounds how long Close waits for operations in progress. Recovery treats those
// that it cuts off as if the process had died.
const closeTimeout = 10 * time.Second

// Close implements driver.Backend.
func (b *Backend) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	b.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	errs := []error{b.open.Close(ctx)}
	errs = append(errs, b.ballast.Freeing(func() error {
		return errors.Join(b.retireAllCounters(ctx), b.endProcess())
	}), b.releaseFiles())
	b.ballast.Keep() // after SQLite has removed its own files
	errs = append(errs, b.dir.Close())
	return translateError(errors.Join(errs...))
}

// releaseFiles closes all that Open has opened, except the home's directory.
func (b *Backend) releaseFiles() error {
	b.volumes.Close() // nil is closed already
	b.locks.Close()
	var err error
	if b.db != nil {
		err = b.db.Close()
	}
	b.volumes, b.locks, b.db = nil, nil, nil
	return err
}

// syncGroup lets callers that need the same directory synced share one sync. run is taken before
// mu.
type syncGroup struct {
	run  sync.Mutex // held while syncing
	mu   sync.Mutex // guards next
	next *syncRound // a round that has not begun, which callers may still join
}

// syncRound is one sync; done is closed when it has ended.
type syncRound struct {
	done chan struct{}
	err  error
}

// joinSync returns once a call of fn that began after joinSync was called has returned.
func (g *syncGroup) joinSync(fn func() error) error {
	g.mu.Lock()
	r := g.next
	if r != nil {
		g.mu.Unlock()
		<-r.done
		return r.err
	}
	r = &syncRound{done: make(chan struct{})}
	g.next = r
	g.mu.Unlock()

	g.run.Lock()
	defer g.run.Unlock()
	yieldToOthers() // so that goroutines that are about to need a sync can join this one
	g.mu.Lock()
	g.next = nil
	g.mu.Unlock()
	r.err = fn()
	close(r.done)
	return r.err
}

// yieldToOthers lets goroutines run that are ready to.
func yieldToOthers() {
	for range 4 {
		runtime.Gosched()
	}
}

// syncVolumesDir makes the entries of volumes/ durable.
func (b *Backend) syncVolumesDir() error {
	return b.syncs.joinSync(func() error { return b.host.syncFile(b.volumes) })
}
