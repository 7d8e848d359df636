package accounts

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/volehq/vole/internal/testing/servers"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(child())
	}
	os.Exit(servers.Main(m))
}

// engines are the databases that every test of behaviour runs on.
var engines = []struct {
	name     string
	database func(t testing.TB) string
}{
	{"SQLite", func(t testing.TB) string { return filepath.Join(t.TempDir(), "a dir ? % #", "accounts.db") }},
	{"PostgreSQL", func(t testing.TB) string { return servers.PG(t) }},
}

// forEachDatabase runs a test on every engine.
func forEachDatabase(t *testing.T, test func(t *testing.T, database string)) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) { test(t, e.database(t)) })
	}
}

// openStore opens a Store that is closed at the end of the test.
func openStore(t testing.TB, database string, opts Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), database, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// clock is a clock that a test moves.
type clock struct {
	mu  sync.Mutex // guards now
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) read() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// makeKey makes a key of organisation acme.
func makeKey(t testing.TB, s *Store, n NewKey) (Key, string) {
	t.Helper()
	if n.Org == "" {
		n.Org = "acme"
	}
	if n.Name == "" {
		n.Name = "a key"
	}
	if n.Scopes == 0 {
		n.Scopes = Write
	}
	k, secret, err := s.CreateKey(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return k, secret
}

const (
	vol1 = "01890a5d-ac96-774b-bcce-b302099a8057"
	vol2 = "01890a5d-ac96-774b-bcce-b302099a8058"
)
