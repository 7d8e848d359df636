package bucket

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/volehq/vole/bucket/internal/blob"
	"github.com/volehq/vole/driver"
)

// metrics are what a namespace counts, for Prometheus.
type metrics struct {
	queries, commits         prometheus.Observer
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

// seconds are the limits of the buckets of latencies: 0.1 ms to 26 s.
var seconds = prometheus.ExponentialBuckets(1e-4, 2, 18)

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	var list []prometheus.Collector
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "vole_bucket", Name: name, Help: help})
		list = append(list, c)
		return c
	}
	latency := func(name, help string) prometheus.Observer {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "vole_bucket", Name: name, Help: help, Buckets: seconds})
		list = append(list, h)
		return h
	}
	m := &metrics{
		queries:       latency("query_seconds", "Time of reads of the database."),
		commits:       latency("commit_seconds", "Time of transactions that change files, retries included."),
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
	m.exports = counter("exports_total", "Manifests of volumes that were written.")
	m.exportErrors = counter("export_errors_total", "Exports, of those from time to time, that failed.")
	m.exported = prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: "vole_bucket", Name: "exported_seconds", Help: "When the last complete export of this process began, in Unix time."})
	list = append(list, m.storeErrors, m.exported)
	if reg == nil {
		return m, nil
	}
	for _, c := range list {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// measured is a database whose reads are timed; changes of files are timed whole.
type measured struct {
	database
	m *metrics
}

func (d *measured) read(ctx context.Context, list ...query) error {
	begin := time.Now()
	err := d.database.read(ctx, list...)
	d.m.queries.Observe(time.Since(begin).Seconds())
	return err
}

// measuredStore is a blob store whose operations are timed and counted.
type measuredStore struct {
	blob.Store
	m *metrics
}

func (s *measuredStore) failed(op string, err error) error {
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, context.Canceled) {
		s.m.storeErrors.WithLabelValues(op).Inc()
	}
	return err
}

func (s *measuredStore) Put(ctx context.Context, key string, data []byte, sum uint32) error {
	begin := time.Now()
	err := s.Store.Put(ctx, key, data, sum)
	s.m.puts.Observe(time.Since(begin).Seconds())
	if err == nil {
		s.m.putBytes.Add(float64(len(data)))
	}
	return s.failed("put", err)
}

func (s *measuredStore) ReadAt(ctx context.Context, key string, p []byte, off int64) error {
	begin := time.Now()
	err := s.Store.ReadAt(ctx, key, p, off)
	s.m.gets.Observe(time.Since(begin).Seconds())
	if err == nil {
		s.m.getBytes.Add(float64(len(p)))
	}
	if errors.Is(err, driver.ErrCorrupt) {
		s.m.corrupt.Inc()
	}
	return s.failed("get", err)
}

func (s *measuredStore) Delete(ctx context.Context, key string) error {
	return s.failed("delete", s.Store.Delete(ctx, key))
}
