// Package local keeps volumes in a directory of this host: the home.
//
//	catalog.db             what volumes there are (SQLite, see internal/catalog)
//	volumes/<id>/data/     a dir volume's files
//	volumes/<id>/tmp/      files being written, before they are renamed into data
//	volumes/<id>/disk.raw  a disk volume's image
//	volumes/<id>/disk.log  the log of an image that is too small to hold one
//	locks/<id>             a volume's counter and locks, while its files are changed
//	locks/processes/<id>   locked by a process as long as it lives
//	lost+found/            what Check found that no volume claims
//	ballast                room that what frees room gets when the disk is full
//	ballast-inodes/        empty files, the inodes of which it gets, too
//
// The catalog is the truth. A volume is made by committing it as creating, making its
// directory, and committing it as ready (data/ follows at first use); it is removed by committing it as removing,
// deleting its directory, and dropping its row. Each such row names the process that
// is at work on it, and a process holds a lock that the kernel drops when it dies, so
// whoever opens the home next can tell what is unfinished from what is under way,
// and finishes or undoes it. The same holds for attachments and for usage counters.
//
// Any number of processes may have a home open. All of them run on one host.
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
	"github.com/volehq/vole/internal/ballast"
	"github.com/volehq/vole/internal/catalog"
	"github.com/volehq/vole/internal/durable"
	"golang.org/x/sys/unix"
)

// Options says how to open a home. The zero value opens for reading and writing.
type Options struct {
	ReadOnly bool             // change nothing
	Clock    func() time.Time // default time.Now
	// ForeignHome allows a home that belongs to another user. What is in it is checked
	// all the same; but its owner can see, change and remove what is done there.
	ForeignHome bool
	// NoDevices refuses device nodes, for those who act for others: a node that root makes
	// in a directory of this host is the device. Default: root may make them, on Linux.
	NoDevices bool
}

// DefaultHome is $VOLE_HOME, else /var/lib/vole for root, else $XDG_DATA_HOME/vole,
// which is ~/.local/share/vole where that is not set.
func DefaultHome() (string, error) {
	if h := os.Getenv("VOLE_HOME"); h != "" {
		return h, nil
	}
	if os.Geteuid() == 0 {
		return "/var/lib/vole", nil
	}
	if d := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "vole"), nil
	}
	h, err := os.UserHomeDir()
	if err != nil {
		return "", driver.Errorf(driver.ErrInvalid, "no place for volumes: %v; set VOLE_HOME", err)
	}
	return filepath.Join(h, ".local", "share", "vole"), nil
}

// Backend is an open home.
type Backend struct {
	home     string // absolute
	foreign  bool   // whoever may own it
	devices  bool   // device nodes may be made
	readOnly bool
	cause    error // why it is read-only
	ballast  *ballast.Ballast
	clock    func() time.Time
	db       *catalog.DB
	dir      *os.File // the home itself
	volumes  *os.File // the directory volumes/
	locks    *os.File // the directory locks/; nil: read-only, and there is none
	syncs    syncGroup

	procMu sync.Mutex              // held while proc is made
	proc   atomic.Pointer[process] // nil until first needed

	inodesMu sync.Mutex          // guards inodes; taken before the lock of a counter
	inodes   map[inodeKey]*inode // files that this process has open

	mu       sync.Mutex // guards what follows
	closed   bool
	counters map[string]*counter // by volume, those in use or lately used
	retiring sync.WaitGroup      // idle counters being retired; added to under mu while not closed
	drafts   map[string]bool     // volumes that this process makes; true: and that nobody else uses
	disks    map[diskKey]*sharedDisk
	removals map[string]chan struct{} // disk volumes that this process removes; closed when it has tried
	open     map[closer]struct{}      // FSes, files and attachments to close with the backend
}

// closer is something that Close of the backend ends.
type closer interface {
	closeWith(ctx context.Context) error
}

// Open opens the home at the absolute path home, making it when it is missing, and
// finishes or undoes what dead processes left. Where the home cannot be written (a
// full or read-only disk) it is opened for reading only. ErrInvalid: the directory
// holds something else; ErrUnsupported: a newer version made it; ErrPermission: it belongs
// to another user, and opts.ForeignHome is not set; ErrCorrupt: it has links, or a catalog
// of another shape; ErrReadOnly, ErrNoSpace, ErrPermission, ErrNotDir and the like: it is
// missing and cannot be made.
func Open(ctx context.Context, home string, opts Options) (*Backend, error) {
	b, err := open(ctx, home, opts)
	if err != nil {
		return nil, homeErr(err)
	}
	return b, nil
}

func open(ctx context.Context, home string, opts Options) (*Backend, error) {
	b := &Backend{
		home:     home,
		foreign:  opts.ForeignHome,
		devices:  !opts.NoDevices && os.Geteuid() == 0 && runtime.GOOS == "linux",
		readOnly: opts.ReadOnly,
		clock:    opts.Clock,
		counters: map[string]*counter{},
		drafts:   map[string]bool{},
		removals: map[string]chan struct{}{},
		open:     map[closer]struct{}{},
		inodes:   map[inodeKey]*inode{},
		disks:    map[diskKey]*sharedDisk{},
	}
	if b.clock == nil {
		b.clock = time.Now
	}
	var err error
	b.dir, err = openHome(home, !opts.ReadOnly, opts.ForeignHome)
	if errors.Is(err, fs.ErrNotExist) && opts.ReadOnly {
		return nil, noHome()
	}
	if err != nil {
		return nil, err
	}
	b.ballast = ballast.New(b.dir)
	err = b.openWritable(ctx)
	if err != nil && !opts.ReadOnly && (ballast.NoSpace(sysErr(err)) || ballast.NoSpace(b.probe())) {
		done := b.ballast.Lend()
		err = b.openWritable(ctx)
		done()
	}
	if err == nil {
		b.ballast.Keep()
	}
	if cause := b.whyReadOnly(err, opts); cause != nil {
		err = b.openReadOnly(ctx, cause)
	}
	if err != nil {
		b.dir.Close()
		return nil, err
	}
	return b, nil
}

// whyReadOnly returns why a home that could not be opened for writing, with err, may be
// opened for reading only: err itself, or what a file that is made there fails with.
func (b *Backend) whyReadOnly(err error, opts Options) error {
	if err == nil || errors.Is(err, driver.ErrInvalid) {
		return nil
	}
	if opts.ReadOnly {
		return err
	}
	if probed := b.probe(); unwritable(probed) {
		return sysErr(probed) // SQLite's own errors do not say what could not be written
	}
	if unwritable(err) {
		return err
	}
	return nil
}

// errWantReadOnly stands for what makes openWritable give up at once.
var errWantReadOnly = errors.New("read-only was asked for")

func noHome() error {
	return driver.Errorf(driver.ErrNotExist, "no volumes are kept there yet; create one first")
}

func unwritable(err error) bool {
	err = sysErr(err)
	return errors.Is(err, driver.ErrReadOnly) || errors.Is(err, driver.ErrNoSpace) || errors.Is(err, driver.ErrPermission)
}

func (b *Backend) openWritable(ctx context.Context) (err error) {
	if b.readOnly {
		return errWantReadOnly
	}
	defer func() {
		if err != nil {
			b.release()
		}
	}()
	if err := b.makeHome(); err != nil {
		return err
	}
	if err := b.openParts(); err != nil {
		return err
	}
	if b.db, err = b.openCatalog(ctx); err != nil {
		return err
	}
	if err := b.catalogAccess(unix.W_OK); err != nil { // SQLite opens what it cannot write without a word
		return err
	}
	sweepBinds()
	_, err = b.recover(ctx)
	return err
}

const catalogName = "catalog.db"

func (b *Backend) openCatalog(ctx context.Context) (*catalog.DB, error) {
	db, err := catalog.Open(ctx, b.path(catalogName), catalog.Options{ReadOnly: b.readOnly, Dir: b.dir, Verify: true})
	if err != nil {
		if denied := b.catalogAccess(unix.R_OK); denied != nil {
			return nil, denied // SQLite says no more than that it cannot open something
		}
	}
	return db, err
}

// catalogAccess returns ErrPermission if this user may not do with the catalog, or with what
// SQLite keeps beside it, what mode says.
func (b *Backend) catalogAccess(mode uint32) error {
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

// openReadOnly opens what is there; cause says why not for writing.
func (b *Backend) openReadOnly(ctx context.Context, cause error) (err error) {
	b.readOnly, b.cause, b.ballast = true, sysErr(cause), &ballast.Ballast{}
	if !b.hasCatalog() { // missing, or the first page did not fit on a full disk
		if cause == errWantReadOnly {
			return noHome()
		}
		return cause
	}
	defer func() {
		if err != nil {
			b.release()
		}
	}()
	if err := b.openParts(); err != nil {
		return err
	}
	b.db, err = b.openCatalog(ctx)
	return err
}

func (b *Backend) path(elem ...string) string {
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

// writable returns the error of a backend that is closed or open for reading only.
func (b *Backend) writable() error {
	if err := b.usable(); err != nil {
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

// readOnlyErr is the error of a change to files that are open for reading only.
func (b *Backend) readOnlyErr() error {
	if err := b.writable(); errors.Is(err, driver.ErrNoSpace) {
		return err
	}
	return driver.Errorf(driver.ErrReadOnly, "the volume is open for reading only")
}

func (b *Backend) usable() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return driver.ErrClosed
	}
	return nil
}

// register notes something to be closed with the backend.
func (b *Backend) register(c closer) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return driver.ErrClosed
	}
	b.open[c] = struct{}{}
	return nil
}

func (b *Backend) unregister(c closer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.open, c)
}

// closeTimeout bounds how long Close waits for what is under way. What is cut off
// then is treated as if the process had died, and recovered.
const closeTimeout = 10 * time.Second

// Close implements driver.Backend.
func (b *Backend) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	var open []closer
	for c := range b.open {
		open = append(open, c)
	}
	b.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	var errs []error
	for _, c := range open {
		errs = append(errs, c.closeWith(ctx))
	}
	b.drain(ctx)
	errs = append(errs, b.ballast.Freeing(func() error {
		return errors.Join(b.settleAll(ctx), b.endProcess())
	}), b.release())
	b.ballast.Keep() // SQLite's own files are gone
	errs = append(errs, b.dir.Close())
	return sysErr(errors.Join(errs...))
}

// drain waits for operations that are under way to let go of what was closed.
func (b *Backend) drain(ctx context.Context) {
	for ctx.Err() == nil {
		b.mu.Lock()
		n := len(b.open)
		b.mu.Unlock()
		if n == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// release frees what Open got, but for the directory itself.
func (b *Backend) release() error {
	var errs []error
	for _, d := range []*os.File{b.volumes, b.locks} {
		if d != nil {
			errs = append(errs, d.Close())
		}
	}
	if b.db != nil {
		errs = append(errs, b.db.Close())
	}
	b.volumes, b.locks, b.db = nil, nil, nil
	return errors.Join(errs...)
}

// syncGroup lets callers that need the same directory synced share one sync.
type syncGroup struct {
	run  sync.Mutex // held while syncing
	mu   sync.Mutex // guards next
	next *syncRound // a round that has not begun, which callers may still join
}

type syncRound struct {
	done chan struct{}
	err  error
}

// sync returns once a call of fn that began after sync was called has returned.
func (g *syncGroup) sync(fn func() error) error {
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
	yield() // so that those who are about to need a sync can join this one
	g.mu.Lock()
	g.next = nil
	g.mu.Unlock()
	r.err = fn()
	close(r.done)
	return r.err
}

// yield lets goroutines run that are ready to.
func yield() {
	for range 4 {
		runtime.Gosched()
	}
}

func (b *Backend) syncVolumes() error {
	return b.syncs.sync(func() error { return durable.Sync(b.volumes) })
}
