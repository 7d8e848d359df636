package servers

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Postgres is a PostgreSQL server of its own, on a loopback port. Commits are durable
// as they are by default: fsync and synchronous_commit are on.
type Postgres struct {
	bin, dir string
	own      bool // dir is made here, and removed by Close
	password string
	mu       sync.Mutex
	port     int
	proc     *process
}

// StartPostgres starts a server whose data is in dir, a directory without such data, or
// in a temporary one when dir is "". ctx bounds the start and not the server's life.
func StartPostgres(ctx context.Context, dir string) (*Postgres, error) {
	bin, err := findPostgresDir()
	if err != nil {
		return nil, err
	}
	p := &Postgres{bin: bin, own: dir == ""}
	if p.own {
		if dir, err = tempDir("pg"); err != nil {
			return nil, err
		}
	}
	if p.dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if err := p.init(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("make PostgreSQL's data: %w", err), p.Close())
	}
	for range portTries {
		if p.port, err = findFreePort(); err != nil {
			break
		}
		if err = p.startAndAwait(ctx); err == nil {
			return p, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(err, p.Close())
}

func (p *Postgres) dataDir() string { return filepath.Join(p.dir, "pgdata") }

// init gives the server its data: a copy of the template.
func (p *Postgres) init(ctx context.Context) error {
	from, password, err := template.getOrCreate(ctx, p.bin)
	if err != nil {
		return err
	}
	p.password = password
	if err := letUsersEnter(p.dir); err != nil {
		return err
	}
	if _, err := os.Lstat(p.dataDir()); err == nil {
		return fmt.Errorf("%s is there already", p.dataDir())
	}
	// cp keeps the owner, which os.CopyFS does not.
	out, err := exec.CommandContext(ctx, "cp", "-Rp", from, p.dataDir()).CombinedOutput()
	if err != nil {
		return fmt.Errorf("copy the template: %w\n%s", err, out)
	}
	return nil
}

// URL returns the connection string of a database.
func (p *Postgres) URL(db string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword("postgres", p.password),
		Host: "127.0.0.1:" + strconv.Itoa(p.port), Path: "/" + db, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// CreateDatabase makes an empty database.
func (p *Postgres) CreateDatabase(name string) error {
	return p.execStatement("CREATE DATABASE " + pgx.Identifier{name}.Sanitize() + " TEMPLATE template0")
}

// DropDatabase removes a database; connections to it are cut.
func (p *Postgres) DropDatabase(name string) error {
	return p.execStatement("DROP DATABASE IF EXISTS " + pgx.Identifier{name}.Sanitize() + " WITH (FORCE)")
}

func (p *Postgres) execStatement(sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, p.URL("postgres"))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(ctx))
}

// StopImmediate stops the server without a checkpoint and cuts all connections, as
// `pg_ctl stop -m immediate` does: the next start recovers from the log.
func (p *Postgres) StopImmediate() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.proc.signalAndWait(syscall.SIGQUIT)
}

// Start starts the server again after StopImmediate, on the same port and data.
func (p *Postgres) Start() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	return p.startAndAwait(ctx)
}

func (p *Postgres) startAndAwait(ctx context.Context) error {
	p.mu.Lock()
	if p.proc.running() {
		p.mu.Unlock()
		return errors.New("PostgreSQL runs already")
	}
	cmd := exec.Command(filepath.Join(p.bin, "postgres"), "-D", p.dataDir(), "-p", strconv.Itoa(p.port),
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
		"-c", "fsync=on", "-c", "synchronous_commit=on", "-c", "max_connections=300")
	proc, err := startAsPostgresUser(cmd, filepath.Join(p.dir, "postgres.log"), syscall.SIGQUIT)
	p.proc = proc
	p.mu.Unlock()
	if err != nil {
		return err
	}
	if err := proc.awaitPing(ctx, p.connectOnce); err != nil {
		return errors.Join(proc.withLog(err), proc.signalAndWait(syscall.SIGQUIT))
	}
	return nil
}

func (p *Postgres) connectOnce(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, p.URL("postgres"))
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// Close stops the server. It removes the data when StartPostgres chose its place.
func (p *Postgres) Close() error {
	err := p.StopImmediate()
	if p.own {
		err = errors.Join(err, os.RemoveAll(p.dir))
	}
	return err
}

// awaitPing returns when ping succeeds. It fails when the process or ctx ends before.
func (p *process) awaitPing(ctx context.Context, ping func(context.Context) error) error {
	for {
		err := func() error {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			return ping(ctx)
		}()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return errors.Join(err, ctx.Err())
		}
		select {
		case <-p.done:
			return errEnded
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// newSecret returns a password that no other server has: a wrong server that answers
// on the port is told from the right one.
func newSecret() string { return rand.Text() }
