package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/minio/minio-go/v7"
	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/internal/testing/servers"
)

// cloud is the servers that the bucket backend is measured on, and plain clients of
// the same servers: the floor. The servers are on this machine, so a round trip costs
// little and what both sides compute shows most: no ratio is better far away.
type cloud struct {
	pg *servers.Postgres
	s3 *servers.Gateway

	config servers.S3Config
	db     *pgxpool.Pool // of a database of the floor's own
	client *minio.Client
	core   minio.Core
}

// clients is how many work at once in the rows that say so.
const clients = 16

// errSkip says that the program to compare with is not installed on this machine.
var errSkip = errors.New("skipped")

// cloud starts the servers, once. They keep their data on the disk that is measured
// where their user may reach it.
func (e *env) cloud() (*cloud, error) {
	if e.servers != nil {
		return e.servers, nil
	}
	pgDir, s3Dir := filepath.Join(e.dir, "postgres"), filepath.Join(e.dir, "s3")
	for _, dir := range []string{pgDir, s3Dir} {
		if err := os.Mkdir(dir, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
	}
	if err := os.Chmod(e.dir, 0o711); err != nil {
		return nil, err
	}
	c := &cloud{}
	e.atEnd(servers.Cleanup)
	var err error
	if c.pg, err = servers.StartPostgres(e.ctx, pgDir); err != nil && !errors.Is(err, servers.ErrNotInstalled) {
		e.logProgress("PostgreSQL in the system's temporary directory: %v", err)
		c.pg, err = servers.StartPostgres(e.ctx, "")
	}
	if err == nil {
		e.atEnd(c.pg.Close)
		if c.s3, err = servers.StartGateway(e.ctx, s3Dir); err == nil {
			e.atEnd(c.s3.Close)
		}
	}
	if errors.Is(err, servers.ErrNotInstalled) {
		return nil, fmt.Errorf("%w: %w", errSkip, err)
	}
	if err == nil {
		err = c.connect(e)
	}
	if err != nil {
		return nil, err
	}
	e.servers = c
	return c, nil
}

// connect makes the floor's database, bucket and clients.
func (c *cloud) connect(e *env) error {
	if err := errors.Join(c.pg.CreateDatabase("floor"), c.s3.CreateBucket("floor")); err != nil {
		return err
	}
	c.config = c.s3.Config("floor")
	var err error
	if c.client, err = c.config.Client(); err != nil {
		return err
	}
	c.core = minio.Core{Client: c.client}
	cfg, err := pgxpool.ParseConfig(c.pg.URL("floor"))
	if err != nil {
		return err
	}
	cfg.MaxConns = clients
	if c.db, err = pgxpool.NewWithConfig(e.ctx, cfg); err != nil {
		return err
	}
	e.atEnd(func() error { c.db.Close(); return nil })
	_, err = c.db.Exec(e.ctx, `CREATE TABLE files (id BYTEA PRIMARY KEY, size BIGINT NOT NULL, mode BIGINT NOT NULL, mtime BIGINT NOT NULL, data BYTEA)`)
	return err
}

// openNamespace opens a new namespace on the servers, which close closes.
func (c *cloud) openNamespace(e *env, inline int) (*vole.Store, error) {
	e.spaces++
	name := fmt.Sprintf("bench%d", e.spaces)
	if err := errors.Join(c.pg.CreateDatabase(name), c.s3.CreateBucket(name)); err != nil {
		return nil, err
	}
	s3 := c.s3.Config(name)
	return e.namespace(bucket.Options{
		Database: c.pg.URL(name), Inline: inline, Maintain: -1,
		S3: &bucket.S3{
			Endpoint: s3.Endpoint, Region: s3.Region, Bucket: s3.Bucket,
			AccessKey: s3.AccessKey, SecretKey: s3.SecretKey, PathStyle: true,
		},
	})
}

// openDir opens a new namespace of one host: SQLite and a directory.
func (e *env) openDir(inline int) (*vole.Store, string, error) {
	e.spaces++
	dir := filepath.Join(e.dir, fmt.Sprintf("namespace%d", e.spaces))
	s, err := e.namespace(bucket.Options{Dir: dir, Inline: inline, Maintain: -1})
	return s, dir, err
}

func (e *env) namespace(opts bucket.Options) (*vole.Store, error) {
	b, err := bucket.OpenOrg(e.ctx, opts, "acme")
	if err != nil {
		return nil, err
	}
	s := vole.New(b)
	e.atEnd(s.Close)
	return s, nil
}

// newFS makes a volume with what fill puts there.
func newFS(ctx context.Context, s *vole.Store, fill func(f *vole.FS) error) (*vole.Volume, *vole.FS, error) {
	v, err := s.Create(ctx, newName(), vole.Spec{})
	if err != nil {
		return nil, nil, err
	}
	if fill != nil {
		b, err := v.OpenFS(ctx, vole.FSOptions{Batch: true})
		if err != nil {
			return nil, nil, err
		}
		if err := errors.Join(fill(b), b.Close()); err != nil {
			return nil, nil, err
		}
	}
	f, err := v.FS(ctx)
	return v, f, err
}

// side is one of the candidates that are measured in turns. It makes n calls and says how long they
// took.
type side func(n int) (time.Duration, error)

// singleCalls makes a side of one call.
func singleCalls(fn func() error) side { return repeatCall(fn) }

// concurrentCalls makes a side of one call that clients make at once; i is the client's number.
func concurrentCalls(fn func(client int) error) side {
	return func(n int) (time.Duration, error) {
		start := time.Now()
		err := parallel(clients, func(c int) error {
			for range n / clients {
				if err := fn(c); err != nil {
					return err
				}
			}
			return nil
		})
		return time.Since(start), err
	}
}

// measureInRotation is turns for any number of sides: each round begins with another.
func (e *env) measureInRotation(n int, sides ...side) ([]time.Duration, error) {
	lists := make([][]time.Duration, len(sides))
	for r := range e.rounds + 1 {
		for k := range sides {
			i := (r + k) % len(sides)
			d, err := sides[i](n)
			if err = errors.Join(err, e.ctx.Err()); err != nil {
				return nil, err
			}
			if r > 0 { // the first warms up
				lists[i] = append(lists[i], d/time.Duration(n))
			}
		}
	}
	medians := make([]time.Duration, len(sides))
	for i, l := range lists {
		medians[i] = median(l)
	}
	return medians, nil
}

// noteLastRow gives the last row a note.
func (e *env) noteLastRow(format string, args ...any) {
	e.rows[len(e.rows)-1].Note = fmt.Sprintf(format, args...)
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }

// bucketBench makes a benchmark that is left out where the servers are not installed.
func bucketBench(name string, run func(*env, *cloud) error) benchmark {
	return benchmark{name, func(e *env) error {
		c, err := e.cloud()
		if err == nil {
			err = run(e, c)
		}
		if errors.Is(err, errSkip) {
			e.logProgress("%v", err)
			return nil
		}
		return err
	}}
}
