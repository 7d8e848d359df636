package accounts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/ballast"
	"github.com/volehq/vole/internal/sqldb"
	"github.com/volehq/vole/internal/testing/servers"
)

const childEnv = "VOLE_TEST_ACCOUNTS_CHILD"

// child is what TestProcesses runs: it opens a database, makes a key, and says what
// the tokens are signed with.
func child() int {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := Open(ctx, os.Getenv(childEnv), Options{})
	if err == nil {
		_, _, err = s.CreateKey(ctx, NewKey{Org: "acme", Name: "child", Scopes: Read})
	}
	if err == nil {
		fmt.Printf("%x\n", s.signingSecret)
		err = s.Close()
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// TestProcesses opens a database that is not there from several processes at once.
func TestProcesses(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, database string) {
		const n = 4
		out := make([]string, n)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				cmd := exec.Command(os.Args[0], "-test.run=^$")
				cmd.Env = append(os.Environ(), childEnv+"="+database)
				b, err := cmd.CombinedOutput()
				if err != nil {
					t.Errorf("a child: %v\n%s", err, b)
				}
				out[i] = string(b)
			})
		}
		wg.Wait()
		s := openStore(t, database, Options{})
		for _, o := range out {
			if o != fmt.Sprintf("%x\n", s.signingSecret) {
				t.Errorf("a child signs with %q, not with %x", o, s.signingSecret)
			}
		}
		if keys, err := s.Keys(t.Context(), "acme"); err != nil || len(keys) != n {
			t.Errorf("%d keys, %v", len(keys), err)
		}
	})
}

// TestFirstOpens is the same within one process.
func TestFirstOpens(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, database string) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				s, err := Open(t.Context(), database, Options{})
				if err == nil {
					err = errors.Join(s.Ping(t.Context()), s.Close())
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
}

// TestSigning has many make the secret of tokens at once: all get the same.
func TestSigning(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, database string) {
		stores := []*Store{openStore(t, database, Options{}), openStore(t, database, Options{})}
		if _, err := stores[0].exec(t.Context(), `DELETE FROM server_secrets`); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		seen := map[string]int{}
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				secret, err := stores[i%2].loadSigningSecret(t.Context())
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				seen[string(secret)]++
			})
		}
		wg.Wait()
		if len(seen) != 1 || seen[string(stores[0].signingSecret)] != 0 {
			t.Errorf("%d secrets, want a new one alone", len(seen))
		}
		if _, err := stores[0].exec(t.Context(), `UPDATE server_secrets SET secret = $1`, []byte("short")); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), database, Options{}); !errors.Is(err, driver.ErrCorrupt) {
			t.Errorf("a secret of five bytes: %v", err)
		}
	})
}

func TestSchemaVersions(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, database string) {
		s := openStore(t, database, Options{})
		insert := `INSERT INTO vole_server_version (version_id, is_applied) VALUES (9999, true)`
		if _, err := s.exec(t.Context(), insert); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), database, Options{}); !errors.Is(err, driver.ErrUnsupported) {
			t.Errorf("a schema from the future: %v", err)
		}
	})
}

// TestTables: the tables can be told from those of others in the same database, that of
// the schema's version too.
func TestTables(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			query := `SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'`
			if e.name == "SQLite" {
				query = `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'`
			}
			s := openStore(t, e.database(t), Options{})
			names, err := queryAll(t.Context(), s, func(scan sqldb.Scanner) (name string, err error) {
				err = scan(&name)
				return name, err
			}, query)
			if err != nil || len(names) != 6 {
				t.Errorf("tables %q, %v; want six", names, err)
			}
			for _, name := range names {
				if name != "vole_server_version" && !strings.HasPrefix(name, "server_") {
					t.Errorf("table %s", name)
				}
			}
		})
	}
}

// TestModes: nobody but the owner can read the database, or what is beside it.
func TestModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "here")
	path := filepath.Join(dir, "accounts.db")
	s := openStore(t, path, Options{})
	makeKey(t, s, NewKey{})
	want := 4 + 2 // the database, two files of SQLite and the ballast, in two directories
	if _, err := os.Stat(filepath.Join(dir, ballast.InodesName)); err == nil {
		want += 1 + ballast.Inodes
	}
	checkModes(t, filepath.Dir(dir), want)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, path, Options{})
	makeKey(t, s, NewKey{})
	checkModes(t, filepath.Dir(dir), want)
}

func checkModes(t *testing.T, root string, want int) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		n++
		st, err := d.Info()
		if err == nil && st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, st.Mode())
		}
		return err
	})
	if err != nil || n != want {
		t.Errorf("%d files and directories, want %d; %v", n, want, err)
	}
}

// TestPassword: the password of a URL is in no error, whatever is wrong with the URL.
func TestPassword(t *testing.T) {
	const password = "s3cr%t/w@rd"
	for _, url := range []string{
		"postgres://u:" + password + "@127.0.0.1:1/db",
		"postgres://u:s3cr@127.0.0.1:1/db",
		"postgres://u:s3cr@127.0.0.1:notaport/db",
		"postgres://u:s3cr@w@rd@[::1/db",
		"postgres://u:s3cr@127.0.0.1:1/db?sslmode=nonsense",
		"postgres://127.0.0.1:1/db?user=u&password=s3cr&sslmode=disable",
		"postgresql://u:s3cr#w@127.0.0.1:1/db",
		"postgres://u:s3cr w@rd",
		"mysql://u:s3cr@127.0.0.1/db",
		"POSTGRES://u:s3cr@127.0.0.1/db",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		s, err := Open(ctx, url, Options{})
		cancel()
		if err == nil {
			s.Close()
			t.Errorf("%s was opened", url)
		} else if strings.Contains(err.Error(), "s3cr") || strings.Contains(err.Error(), "w@rd") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
	// The server's own refusals, of a database that is not there and of a user.
	for _, change := range [][2]string{{"/vole_", "/nothing_"}, {"postgres://", "postgres://nobody:s3cr@"}} {
		url := servers.PG(t)
		if change[0] == "postgres://" {
			url = url[strings.LastIndex(url, "@")+1:]
			url = change[1] + strings.TrimPrefix(url, "postgres://")
		} else {
			url = strings.Replace(url, change[0], change[1], 1)
		}
		s, err := Open(t.Context(), url, Options{})
		if err == nil {
			s.Close()
			t.Error("a URL that is wrong was opened")
		} else if strings.Contains(err.Error(), "s3cr") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
}

func TestNoDatabase(t *testing.T) {
	if _, err := Open(t.Context(), "", Options{}); !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("no path: %v", err)
	}
	path := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(path, []byte("this is no database, but long enough to be taken for one.\n"+strings.Repeat("x", 4096)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), path, Options{}); !errors.Is(err, driver.ErrCorrupt) {
		t.Errorf("a text: %v", err)
	}
}

func TestClosed(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, database string) {
		s := openStore(t, database, Options{})
		ctx := t.Context()
		_, secret := makeKey(t, s, NewKey{})
		p, err := s.Authenticate(ctx, secret)
		if err != nil {
			t.Fatal(err)
		}
		token, err := s.VolumeToken(ctx, p, vol1, time.Hour)
		if err := errors.Join(err, s.Ping(ctx), s.Close(), s.Close()); err != nil {
			t.Fatal(err)
		}
		calls := map[string]error{"Ping": s.Ping(ctx), "Record": s.Record(ctx, AuditRecord{}), "PruneAudit": s.PruneAudit(ctx, time.Now())}
		_, calls["Authenticate"] = s.Authenticate(ctx, secret)
		_, calls["VolumeToken"] = s.VolumeToken(ctx, p, vol1, time.Hour)
		_, _, calls["AuthenticateVolume"] = s.AuthenticateVolume(ctx, token)
		_, calls["AnyKey"] = s.HasAnyKey(ctx)
		_, calls["Keys"] = s.Keys(ctx, "acme")
		_, _, calls["CreateKey"] = s.CreateKey(ctx, NewKey{Org: "acme", Name: "k", Scopes: Read})
		_, calls["BeginIdempotent"] = s.BeginIdempotent(ctx, Idempotent{Org: "acme", Key: "k", Fingerprint: "f"})
		for name, err := range calls {
			if !errors.Is(err, driver.ErrClosed) {
				t.Errorf("%s after Close: %v", name, err)
			}
		}
	})
}

// TestContext: a call whose context has ended says so.
func TestContext(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, database string) {
		s := openStore(t, database, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err1 := s.Keys(ctx, "acme")
		_, err2 := s.BeginIdempotent(ctx, Idempotent{Org: "acme", Key: "k", Fingerprint: "f"})
		for _, err := range []error{err1, err2, s.Ping(ctx)} {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%v, want context.Canceled", err)
			}
		}
	})
}
