package servers

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

// template is the data that initdb makes. Each server of this process starts from a
// copy, which takes a tenth of the time.
var template pgTemplate

type pgTemplate struct {
	mu            sync.Mutex
	dir, password string
}

func (t *pgTemplate) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dir, t.password = "", ""
}

func (t *pgTemplate) getOrCreate(ctx context.Context, bin string) (dir, password string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dir != "" {
		return t.dir, t.password, nil
	}
	tmp, err := tempDir("initdb")
	if err != nil {
		return "", "", err
	}
	password = newSecret()
	if dir, err = runInitdb(ctx, bin, tmp, password); err != nil {
		return "", "", err
	}
	t.dir, t.password = dir, password
	return dir, password, nil
}

// runInitdb makes data in dir for a server whose only user is postgres.
func runInitdb(ctx context.Context, bin, dir, password string) (string, error) {
	data, secret := filepath.Join(dir, "pgdata"), filepath.Join(dir, "password")
	if err := os.WriteFile(secret, []byte(password+"\n"), 0o600); err != nil {
		return "", err
	}
	if err := os.Mkdir(data, 0o700); err != nil {
		return "", err
	}
	if err := giveToPostgres(data, secret); err != nil {
		return "", err
	}
	// A password, because every local user reaches a loopback port; in clear, because
	// hashing it costs more than many a test does. Syncing a template protects nothing.
	cmd := exec.Command(filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres",
		"--pwfile", secret, "-A", "password", "-E", "UTF8", "--locale=C", "--no-sync")
	proc, err := startAsPostgresUser(cmd, filepath.Join(dir, "initdb.log"), syscall.SIGKILL)
	if err != nil {
		return "", err
	}
	select {
	case <-proc.done:
	case <-ctx.Done():
		_ = proc.signalAndWait(syscall.SIGKILL)
		return "", ctx.Err()
	}
	if !cmd.ProcessState.Success() {
		return "", proc.withLog(fmt.Errorf("%v", cmd.ProcessState))
	}
	return data, nil
}

// findPostgresDir returns the directory of initdb and postgres: that of PATH, or Debian's
// newest, which is not in PATH.
func findPostgresDir() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil && isRegularFile(filepath.Join(filepath.Dir(path), "postgres")) {
			return filepath.Dir(path), nil
		}
	}
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	best, newest := "", -1
	for _, dir := range dirs {
		version, err := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
		if err == nil && version > newest && isRegularFile(filepath.Join(dir, "initdb")) && isRegularFile(filepath.Join(dir, "postgres")) {
			best, newest = dir, version
		}
	}
	if best == "" {
		return "", fmt.Errorf("PostgreSQL %w", ErrNotInstalled)
	}
	return best, nil
}

func isRegularFile(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}
