package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/blob"
	"github.com/volehq/vole/internal/sqldb"
)

// metrics are the Prometheus metrics of a namespace.
type metrics struct {
	collectors []prometheus.Collector // all of them

	operations               *prometheus.HistogramVec // by operation
	queries, commits         prometheus.Observer
	snapshots                prometheus.Observer
	puts, gets               prometheus.Observer
	putBytes, getBytes       prometheus.Counter
	storeErrors              *prometheus.CounterVec // by operation
	retries, corrupt         prometheus.Counter
	sweeps, sweptBlobs       prometheus.Counter
	sweptBytes               prometheus.Counter
	reapedVolumes, endedHeld prometheus.Counter
	exports, exportErrors    prometheus.Counter
	exported                 prometheus.Gauge
}

// latencyBuckets are the bounds of latency histograms: 0.1 ms to 13 s, in seconds.
var latencyBuckets = prometheus.ExponentialBuckets(1e-4, 2, 18)

// newMetrics makes the metrics. They are visible once they are registered.
func newMetrics() *metrics {
	var list []prometheus.Collector
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "vole_bucket", Name: name, Help: help})
		list = append(list, c)
		return c
	}
	latency := func(name, help string) prometheus.Observer {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "vole_bucket", Name: name, Help: help, Buckets: latencyBuckets})
		list = append(list, h)
		return h
	}
	m := &metrics{
		queries:       latency("query_seconds", "Time of reads of the database."),
		commits:       latency("commit_seconds", "Time of transactions that change the database, retries included."),
		snapshots:     latency("snapshot_seconds", "Time of exports' and checks' looks at one state of the database."),
		puts:          latency("put_seconds", "Time of puts of blobs."),
		gets:          latency("get_seconds", "Time of reads of blobs."),
		putBytes:      counter("put_bytes_total", "Bytes of blobs that were put."),
		getBytes:      counter("get_bytes_total", "Bytes of blobs that were read."),
		retries:       counter("database_retries_total", "Failures of the database that were tried again."),
		corrupt:       counter("corrupt_reads_total", "Answers of the blob store whose checksum was wrong."),
		sweeps:        counter("sweeps_total", "Sweeps that ran to their end."),
		sweptBlobs:    counter("swept_blobs_total", "Blobs that were swept away."),
		sweptBytes:    counter("swept_bytes_total", "Bytes of blobs that were swept away."),
		reapedVolumes: counter("removed_volumes_total", "Volumes whose last rows were removed."),
		endedHeld:     counter("expired_sessions_total", "Sessions whose lease ran out."),
		storeErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "vole_bucket", Name: "store_errors_total", Help: "Operations of the blob store that failed."}, []string{"op"}),
	}
	m.operations = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "vole_bucket", Name: "operation_seconds", Help: "Time of operations on volumes and files.", Buckets: latencyBuckets}, []string{"op"})
	m.exports = counter("exports_total", "Manifests of volumes that were written.")
	m.exportErrors = counter("export_errors_total", "Exports, of those from time to time, that failed.")
	m.exported = prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: "vole_bucket", Name: "exported_seconds", Help: "When the last complete export of this process began, in Unix time."})
	m.collectors = append(list, m.operations, m.storeErrors, m.exported)
	return m
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, c := range m.collectors {
		c.Describe(to)
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	for _, c := range m.collectors {
		c.Collect(to)
	}
}

// registerWith registers the metrics, unless reg is nil. ErrExists: another namespace has
// registered its own.
func (m *metrics) registerWith(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	err := reg.Register(m)
	if errors.As(err, &prometheus.AlreadyRegisteredError{}) {
		err = driver.Errorf(driver.ErrExists, "the registry already has the metrics of another namespace; tell them apart with prometheus.WrapRegistererWith")
	}
	return err
}

func (m *metrics) unregisterFrom(reg prometheus.Registerer) {
	if reg != nil {
		reg.Unregister(m)
	}
}

// observeSince records how long an operation took that began at begin.
func (m *metrics) observeSince(op string, begin time.Time) {
	observeElapsed(m.operations.WithLabelValues(op), begin)
}

// observeElapsed records the seconds since begin.
func observeElapsed(to prometheus.Observer, begin time.Time) {
	to.Observe(time.Since(begin).Seconds())
}

// measuredDB is a database whose reads and transactions are timed.
type measuredDB struct {
	sqldb.DB
	metrics *metrics
}

func (db *measuredDB) RunQueries(ctx context.Context, list ...sqldb.Query) error {
	defer observeElapsed(db.metrics.queries, time.Now())
	return db.DB.RunQueries(ctx, list...)
}

func (db *measuredDB) RunTx(ctx context.Context, opts sqldb.TxOptions, fn func(tx sqldb.Tx) error) error {
	defer observeElapsed(db.metrics.commits, time.Now())
	return db.DB.RunTx(ctx, opts, fn)
}

func (db *measuredDB) RunOnSnapshot(ctx context.Context, fn func(run sqldb.Runner) error) error {
	defer observeElapsed(db.metrics.snapshots, time.Now())
	return db.DB.RunOnSnapshot(ctx, fn)
}

// measuredStore is a blob store whose operations are timed and counted, and whose errors are
// faults of the storage.
type measuredStore struct {
	blob.Store
	metrics *metrics
}

// countFailure counts an error and marks it as a fault of the storage. If ctx has ended, the
// error says so, whatever the store returned at the last moment.
func (s *measuredStore) countFailure(ctx context.Context, op string, err error) error {
	if gone := ctx.Err(); err != nil && gone != nil && !errors.Is(err, gone) && !errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", gone, err)
	}
	if errors.Is(err, fs.ErrNotExist) && op != "get" && op != "open" && op != "stat" {
		// Not an object is missing but the directory or bucket.
		err = &driver.Fault{Part: driver.Storage, Kind: driver.ErrUnavailable, Err: errors.New(err.Error())}
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) || errors.Is(err, driver.ErrClosed) {
		return err
	}
	if !errors.Is(err, context.Canceled) {
		s.metrics.storeErrors.WithLabelValues(op).Inc()
	}
	return asStorageFault(err)
}

// asStorageFault marks an error as one of the blob store: unavailable, unless it has a kind of
// its own. An unavailable store's error matches nothing else, so that io.ErrUnexpectedEOF from
// it is not taken for an end of the caller's stream.
func asStorageFault(err error) error {
	switch {
	case errors.As(err, new(*driver.Fault)):
		return err
	case driver.Classify(err).Code != "internal":
		return &driver.Fault{Part: driver.Storage, Err: err}
	}
	f := &driver.Fault{Part: driver.Storage, Kind: driver.ErrUnavailable, Err: errors.New(err.Error())}
	if errors.Is(err, blob.ErrUncertain) {
		f.Kind = errors.Join(driver.ErrUnavailable, blob.ErrUncertain)
	}
	return f
}

func (s *measuredStore) Ping(ctx context.Context) error {
	return s.countFailure(ctx, "ping", s.Store.Ping(ctx))
}

func (s *measuredStore) Put(ctx context.Context, key string, data []byte, sum uint32) error {
	defer observeElapsed(s.metrics.puts, time.Now())
	err := s.Store.Put(ctx, key, data, sum)
	if err == nil {
		s.metrics.putBytes.Add(float64(len(data)))
	}
	return s.countFailure(ctx, "put", err)
}

func (s *measuredStore) ReadAt(ctx context.Context, key string, p []byte, off int64) error {
	defer observeElapsed(s.metrics.gets, time.Now())
	err := s.Store.ReadAt(ctx, key, p, off)
	if err == nil {
		s.metrics.getBytes.Add(float64(len(p)))
	}
	return s.countFailure(ctx, "get", err)
}

func (s *measuredStore) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	r, err := s.Store.Open(ctx, key)
	return r, s.countFailure(ctx, "open", err)
}

func (s *measuredStore) Write(ctx context.Context, key string, r io.Reader) error {
	return s.countFailure(ctx, "write", s.Store.Write(ctx, key, r))
}

func (s *measuredStore) Stat(ctx context.Context, key string) (blob.Info, error) {
	info, err := s.Store.Stat(ctx, key)
	return info, s.countFailure(ctx, "stat", err)
}

func (s *measuredStore) List(ctx context.Context, prefix string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		for info, err := range s.Store.List(ctx, prefix) {
			if !yield(info, s.countFailure(ctx, "list", err)) {
				return
			}
		}
	}
}

func (s *measuredStore) Delete(ctx context.Context, key string) error {
	return s.countFailure(ctx, "delete", s.Store.Delete(ctx, key))
}
