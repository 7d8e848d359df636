// Package bucket keeps the volumes of organisations: names and metadata in an SQL
// database, bytes in immutable blobs. Any number of hosts may share them.
//
// # Model
//
// A [Namespace] is a database (PostgreSQL, or SQLite for one host) and a blob store (an S3
// bucket, or a directory). It holds organisations, each with volumes of its own. A [Backend] is
// one organisation, and implements driver.Backend. It cannot reach a volume, blob or attachment
// of another organisation: every query of volumes, blobs and attachments has the organisation's
// id, and every object key begins with it. The rows of files are keyed by the volume's id, which
// a call gets only from the volume's row, by its organisation.
//
// The rows of a volume's files are keyed by its id alone and refer to no other volume, so they
// can move by that id to a database of their own. Blobs are keyed by the organisation, because
// clones share them: an organisation must not be split between databases.
//
// A volume is rows of inodes, directory entries, extended attributes and chunks. A chunk maps a
// range of a file to a range of a blob. Blobs are immutable: a write makes new ones and then, in
// one short transaction, lets chunks refer to them (copy-on-write). So a file is replaced at
// once or not at all, a rename and a copy move no bytes, and the quota is exact: it is checked
// in that transaction, under the lock of the volume's row.
//
// # Life of a blob
//
// A blob is registered before its object is put: its row is committed, marked freed, with the
// largest size that it may have. It is used when a chunk refers to it, which clears the mark,
// and freed again when the last chunk that refers to it is gone. Garbage collection
// ([Namespace.Sweep]) deletes blobs that have been freed for longer than the grace time; a
// foreign key makes a mistake there an error instead of a loss. The row of a blob with an object
// becomes a tombstone until the object is deleted. Blobs of few bytes (Options.Inline) live in
// their row and have no object.
//
// Triggers of the database count the bytes of each organisation that are stored and referred to
// by nothing: those of blobs that are marked freed, and of tombstones. Options.Unreferenced
// bounds them.
//
// # Leases
//
// A Backend that holds something has a session: a row with a lease, which is renewed, by the
// database's clock. Attachments, drafts, and files that are open but have lost their name belong
// to a session and end with it. A host that is cut off loses its session when the lease runs
// out. What it commits later under an attachment of that session is refused.
//
// # Consistency
//
// What one process changes, all handles of that process see at once. Between hosts consistency
// is close to open: a file that is opened, or a path that is resolved, after another host has
// closed or synced a file shows what that host wrote.
package bucket

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/blob"
	"github.com/volehq/vole/internal/budget"
	"github.com/volehq/vole/internal/fault"
	"github.com/volehq/vole/internal/sqldb"
)

// S3 says where and how the objects of an S3 bucket are reached.
type S3 = blob.S3Options

// Options says how to open a namespace. Set Dir, or Database and one of Blobs and S3.
type Options struct {
	// Dir is a directory for everything: Database defaults to namespace.db in it, Blobs to
	// blobs.
	Dir string
	// Database is the URL of a PostgreSQL database, or the path of a SQLite file.
	Database string
	// Blobs is a directory for objects, S3 the bucket instead of it.
	Blobs string
	S3    *S3

	ReadOnly bool // change nothing

	// Inline is the size up to which bytes are kept in the database instead of in an object,
	// at most 64 KiB. Default: 16 KiB; negative: never.
	Inline int
	// Lease is how long a process that went silent keeps what it holds. Default: 30 s.
	Lease time.Duration
	// Grace is how long a blob that nothing refers to is kept. It must exceed the longest
	// write, the longest read of a file that another host has removed, and the time between
	// two exports. Default: 24 hours.
	Grace time.Duration
	// Unreferenced bounds the bytes that an organisation has stored while nothing refers to
	// them: puts under way, and freed blobs. When the bound is reached, freed blobs are deleted
	// before their grace time is over, the oldest first, but none younger than 15 minutes and
	// none that the last export refers to. If that is not enough, writes fail with ErrNoSpace,
	// and so does any single write that is larger. Default: 16 GiB; negative: no bound.
	Unreferenced int64
	// Maintain is how often this process does background work (see Namespace.Maintain).
	// Default: a minute; negative: never.
	Maintain time.Duration
	// Export is how often this process exports manifests of changed volumes (see
	// Namespace.Export), unless another process has. No process, with this option or without,
	// then sweeps what the last complete export of an organisation refers to, for 30 days.
	// Default: never.
	Export time.Duration
	// Conns is the most connections to PostgreSQL. Default: 16.
	Conns int

	// Memory bounds the buffers of each organisation: chunks in transfer, prefetched bytes and
	// dirty bytes. Default: only the bounds on all organisations together.
	Memory *budget.Budget

	Log *slog.Logger // default: none
	// Metrics is where the namespace's metrics are registered until it is closed. A
	// process with several namespaces tells them apart by prometheus.WrapRegistererWith.
	Metrics prometheus.Registerer // default: none

	faults *fault.Injector // of tests; see inject_test.go
}

// Namespace is an open database with its blob store.
type Namespace struct {
	opts            Options
	db              sqldb.DB
	blobs           blob.Store
	log             *slog.Logger
	metrics         *metrics
	pingCache       pingResult
	reserves        reservePool
	dirtyBytes      atomic.Int64 // written by handles and not committed yet
	readAheadBytes  atomic.Int64 // prefetched by handles and not released yet
	blobParallelism int          // how many blobs of one file are put, or prefetched, at once
	processID       []byte       // names this process in rows of jobs and in registrations of blobs

	wakeups         chan struct{}      // has an element while maintenance should run at once
	jobs            sync.Map           // name of a job -> chan struct{} that is full while this process runs it
	lifetime        context.Context    // ends when the namespace is closed
	cancelLife      context.CancelFunc // ends lifetime
	goroutines      sync.WaitGroup     // that renew the claim on registered blobs
	maintenanceDone chan struct{}      // closed when maintenance has ended
}

// Open opens a namespace and brings its database up to date. It returns ErrUnsupported if a
// newer version of vole made the database.
func Open(ctx context.Context, opts Options) (*Namespace, error) {
	if err := opts.completeAndValidate(); err != nil {
		return nil, err
	}
	ns := &Namespace{opts: opts, log: opts.Log, metrics: newMetrics(), processID: newID(), maintenanceDone: make(chan struct{}), wakeups: make(chan struct{}, 1)}
	ns.reserves.ns, ns.reserves.orgs = ns, map[string]*orgReserve{}
	var err error
	if ns.db, err = ns.openDatabase(ctx); err != nil {
		return nil, err
	}
	if ns.blobs, err = ns.openBlobStore(ctx); err != nil {
		return nil, errors.Join(err, ns.db.Close())
	}
	if err := ns.metrics.registerWith(opts.Metrics); err != nil {
		return nil, errors.Join(err, ns.db.Close(), ns.blobs.Close())
	}
	ns.lifetime, ns.cancelLife = context.WithCancel(context.Background())
	// A directory is no faster with more, and each takes a buffer of chunkSize.
	if ns.blobParallelism = 1; opts.S3 != nil {
		ns.blobParallelism = 4
	}
	go ns.runMaintenance(ns.lifetime)
	return ns, nil
}

// completeAndValidate sets defaults, and returns ErrInvalid for options that are no use.
func (o *Options) completeAndValidate() error {
	if o.Dir != "" {
		if o.Database == "" {
			o.Database = filepath.Join(o.Dir, "namespace.db")
		}
		if o.Blobs == "" && o.S3 == nil {
			o.Blobs = filepath.Join(o.Dir, "blobs")
		}
	}
	if o.Database == "" || (o.Blobs == "") == (o.S3 == nil) {
		return driver.Errorf(driver.ErrInvalid, "set Dir, or Database and one of Blobs and S3")
	}
	o.Inline = cmp.Or(o.Inline, 16<<10)
	o.Lease = cmp.Or(o.Lease, 30*time.Second)
	o.Grace = cmp.Or(o.Grace, 24*time.Hour)
	o.Unreferenced = cmp.Or(o.Unreferenced, 16<<30)
	o.Maintain = cmp.Or(o.Maintain, time.Minute)
	o.Conns = cmp.Or(o.Conns, 16)
	switch {
	case o.Inline > maxInline:
		return driver.Errorf(driver.ErrInvalid, "Inline is %d: use %d or less", o.Inline, maxInline)
	case o.Lease < 0 || o.Grace < 0:
		return driver.Errorf(driver.ErrInvalid, "Lease is %v and Grace %v: they must not be negative", o.Lease, o.Grace)
	case o.Unreferenced >= 0 && o.Unreferenced < minUnreferenced:
		return driver.Errorf(driver.ErrInvalid, "Unreferenced is %d: use %v or more, or a negative number for no bound", o.Unreferenced, driver.Size(minUnreferenced))
	case o.Conns < minConns:
		return driver.Errorf(driver.ErrInvalid, "Conns is %d: use %d or more", o.Conns, minConns)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

const (
	// maxInline is the largest Options.Inline: rows are read whole.
	maxInline = 64 << 10
	// minConns is the smallest Options.Conns.
	minConns = 1
)

// openBlobStore opens the bucket or the directory of blobs, with its operations timed and
// counted.
func (ns *Namespace) openBlobStore(ctx context.Context) (blob.Store, error) {
	var s blob.Store
	var err error
	if ns.opts.S3 != nil {
		s, err = blob.OpenS3(ctx, *ns.opts.S3)
	} else {
		s, err = blob.OpenDir(ns.opts.Blobs, ns.opts.faults)
	}
	if err != nil {
		return nil, err
	}
	return &measuredStore{Store: s, metrics: ns.metrics}, nil
}

// logRetry counts and logs a failure of the database that is retried.
func (ns *Namespace) logRetry(err error) {
	ns.metrics.retries.Inc()
	ns.log.Warn("database: trying again", "error", err)
}

// Close ends maintenance and closes the database and the blob store. Close all Backends
// before.
func (ns *Namespace) Close() error {
	ns.cancelLife()
	<-ns.maintenanceDone
	ns.goroutines.Wait()
	ns.reserves.releaseAll()
	ns.metrics.unregisterFrom(ns.opts.Metrics)
	return errors.Join(ns.db.Close(), ns.blobs.Close())
}

// Ping reports whether the database and the blob store answer. The blob store is asked at most
// once a second; calls in between get the last result.
func (ns *Namespace) Ping(ctx context.Context) error {
	if err := ns.db.RunQueries(ctx, sqldb.EachRow(func(scan sqldb.Scanner) error { return scan(new(int)) }, `SELECT count(*) FROM orgs`)); err != nil {
		if !errors.As(err, new(*driver.Fault)) {
			err = &driver.Fault{Part: driver.Database, Err: err}
		}
		return err
	}
	p := &ns.pingCache
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.at.IsZero() && time.Since(p.at) < pingEvery {
		return p.err
	}
	err := ns.blobs.Ping(ctx)
	if !errors.Is(err, context.Canceled) {
		p.at, p.err = time.Now(), err
	}
	return err
}

const pingEvery = time.Second

// pingResult caches the last answer of the blob store to Ping.
type pingResult struct {
	mu  sync.Mutex // guards what follows
	at  time.Time
	err error
}

// Orgs returns the names of the organisations, sorted.
func (ns *Namespace) Orgs(ctx context.Context) ([]string, error) {
	var list []string
	err := ns.db.RunQueries(ctx, sqldb.SelectAll(&list, func(s *string) []any { return []any{s} }, `SELECT name FROM orgs WHERE name NOT LIKE '`+removedOrg+`%' ORDER BY name`))
	return list, err
}

// CreateOrg makes an organisation. Its name follows the rules of volume names. ErrExists: the
// name is taken.
func (ns *Namespace) CreateOrg(ctx context.Context, name string) error {
	if err := driver.ValidateName(name); err != nil {
		return driver.Errorf(driver.ErrInvalid, "organisation: %v", err)
	}
	if ns.opts.ReadOnly {
		return errReadOnly
	}
	id := newID()
	err := ns.db.RunTx(ctx, sqldb.TxOptions{}, func(tx sqldb.Tx) error {
		var found bool
		var have []byte
		if err := tx.RunQueries(sqldb.SelectOne(&found, []any{&have}, `SELECT id FROM orgs WHERE name = $1`, name)); err != nil || found {
			if found && string(have) != string(id) {
				return errOrgExists
			}
			return err
		}
		tx.QueueExec(`INSERT INTO orgs (id, name, created) VALUES ($1, $2, {now})`, id, name)
		return nil
	})
	if ns.db.IsUniqueViolation(err) {
		return errOrgExists
	}
	return err
}

var errOrgExists = driver.Errorf(driver.ErrExists, "an organisation of that name already exists")

// Org opens an organisation. ErrNoSuch: there is none of that name.
func (ns *Namespace) Org(ctx context.Context, name string) (*Backend, error) {
	var id []byte
	missing := driver.Errorf(driver.ErrNoSuch, "there is no organisation %q", name)
	if strings.HasPrefix(name, removedOrg) {
		return nil, missing
	}
	if err := ns.db.RunQueries(ctx, sqldb.SelectRow(missing, []any{&id}, `SELECT id FROM orgs WHERE name = $1`, name)); err != nil {
		return nil, err
	}
	b := newBackend(ns, id)
	b.memory = ns.opts.Memory.Share(name)
	return b, nil
}

// OpenOrg opens a namespace for one organisation, which is made if it is missing. The Backend
// closes the namespace.
func OpenOrg(ctx context.Context, opts Options, org string) (*Backend, error) {
	ns, err := Open(ctx, opts)
	if err != nil {
		return nil, err
	}
	if !opts.ReadOnly {
		if err := ns.CreateOrg(ctx, org); err != nil && !errors.Is(err, driver.ErrExists) {
			return nil, errors.Join(err, ns.Close())
		}
	}
	b, err := ns.Org(ctx, org)
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	b.ownedNamespace = ns
	return b, nil
}

var errReadOnly = driver.Errorf(driver.ErrReadOnly, "the namespace is open for reading only")

// newID returns a UUIDv7 (RFC 9562): ids sort by the time they were made.
func newID() []byte {
	id, err := uuid.NewV7()
	if err != nil {
		panic(err) // the system's source of randomness is broken
	}
	return id[:]
}

// parseID parses an id as users write it. It returns nil for other text.
func parseID(s string) []byte {
	id, err := uuid.Parse(s)
	if err != nil || len(s) != 36 {
		return nil
	}
	return id[:]
}

var _ io.Closer = (*Namespace)(nil)
