// Package servers runs real servers for tests, the benchmark and torture: PostgreSQL,
// the S3 server versitygw, and a proxy that makes an S3 server misbehave.
//
// A test that needs a server calls [PG] or [S3], which share one server per process. The
// test's package has a TestMain that stops the servers and removes their data:
//
//	func TestMain(m *testing.M) { os.Exit(servers.Main(m)) }
//
// [StartPostgres] and [StartGateway] start servers that a test may kill.
// Nothing that ships links this package.
package servers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// ErrNotInstalled is in the errors of StartPostgres and StartGateway when the server's
// programs are not on this machine.
var ErrNotInstalled = errors.New("is not installed; run scripts/setup.sh ci")

// shared is a server that the tests of one process share. It starts with the first.
type shared[T interface{ Close() error }] struct {
	mu      sync.Mutex
	started bool
	server  T
	err     error
}

func (s *shared[T]) startOnce(start func(ctx context.Context, dir string) (T, error)) (T, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.started {
		s.started = true
		ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
		defer cancel()
		s.server, s.err = start(ctx, "")
	}
	return s.server, s.err
}

func (s *shared[T]) closeIfStarted() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var none T
	var err error
	if s.started && s.err == nil {
		err = s.server.Close()
	}
	s.started, s.server, s.err = false, none, nil
	return err
}

var (
	sharedPG shared[*Postgres]
	sharedS3 shared[*Gateway]
	serial   atomic.Int64 // of names
)

// PG returns the URL of a new database in the PostgreSQL that this process's tests
// share. The database is dropped when the test ends. Without PostgreSQL it skips t.
func PG(t testing.TB) string {
	t.Helper()
	p, err := sharedPG.startOnce(StartPostgres)
	Check(t, err)
	name := fmt.Sprintf("vole_%d", serial.Add(1))
	Check(t, p.CreateDatabase(name))
	t.Cleanup(func() {
		if err := p.DropDatabase(name); err != nil {
			t.Error(err)
		}
	})
	return p.URL(name)
}

// S3 returns a new bucket in the versitygw that this process's tests share. The bucket
// is removed when the test ends. Without versitygw it skips t.
func S3(t testing.TB) S3Config {
	t.Helper()
	g, err := sharedS3.startOnce(StartGateway)
	Check(t, err)
	name := fmt.Sprintf("vole-%d", serial.Add(1))
	Check(t, g.CreateBucket(name))
	t.Cleanup(func() {
		if err := g.RemoveBucket(name); err != nil {
			t.Error(err)
		}
	})
	return g.Config(name)
}

// Check skips t when err is that a server is not installed, and fails it on another.
func Check(t testing.TB, err error) {
	t.Helper()
	switch {
	case errors.Is(err, ErrNotInstalled):
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
}

// Main runs the tests of a package, cleans up, and returns the exit status.
func Main(m *testing.M) int {
	status := m.Run()
	if err := Cleanup(); err != nil {
		fmt.Println("servers:", err)
		status = max(status, 1)
	}
	return status
}

// Cleanup stops the shared servers and removes all temporary directories of this
// package. Servers that the caller started must be closed before.
func Cleanup() error {
	template.reset()
	return errors.Join(sharedPG.closeIfStarted(), sharedS3.closeIfStarted(), removeBaseDir())
}
