package servers

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/volehq/vole/internal/flock"
)

const (
	dirPrefix = "vole-servers-"
	dirLock   = "lock"
)

// base is the directory of this process for all that has no other place.
var base struct {
	sync.Mutex
	dir  string
	lock *flock.Lock // shows other processes that the directory is in use
}

// tempDir makes a new directory beneath base, which any user may traverse.
func tempDir(name string) (string, error) {
	base.Lock()
	defer base.Unlock()
	if base.dir == "" {
		removeDirsOfDeadProcesses()
		dir, err := os.MkdirTemp("", dirPrefix)
		if err != nil {
			return "", err
		}
		lock, err := flock.Try(filepath.Join(dir, dirLock))
		if err == nil && lock == nil {
			err = errors.New(dir + " is locked by another process")
		}
		if err != nil {
			return "", errors.Join(err, os.RemoveAll(dir))
		}
		base.dir, base.lock = dir, lock
	}
	dir, err := os.MkdirTemp(base.dir, name+"-")
	if err != nil {
		return "", err
	}
	return dir, letUsersEnter(dir)
}

// removeBaseDir removes what tempDir made.
func removeBaseDir() error {
	base.Lock()
	defer base.Unlock()
	if base.dir == "" {
		return nil
	}
	err := errors.Join(os.RemoveAll(base.dir), base.lock.Release())
	base.dir, base.lock = "", nil
	return err
}

// removeDirsOfDeadProcesses removes the directories whose lock no process holds: their owners
// were killed. A directory younger than a minute is left, since it may not have its lock yet.
func removeDirsOfDeadProcesses() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*"))
	for _, dir := range dirs {
		if st, err := os.Stat(dir); err != nil || time.Since(st.ModTime()) < time.Minute {
			continue
		}
		lock, err := flock.TryExisting(filepath.Join(dir, dirLock))
		if err != nil || lock == nil {
			continue
		}
		_ = os.RemoveAll(dir) // what belongs to another user stays
		_ = lock.Release()
	}
}

// letUsersEnter lets every user traverse dir and the directories above it. It changes only
// those beneath the system's temporary directory, such as testing.T.TempDir makes.
func letUsersEnter(dir string) error {
	temp := filepath.Clean(os.TempDir())
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		st, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if st.Mode()&0o001 != 0 {
			continue
		}
		if !strings.HasPrefix(dir, temp+string(filepath.Separator)) {
			return fmt.Errorf("other users cannot traverse %s", dir)
		}
		if err := os.Chmod(dir, st.Mode().Perm()|0o011); err != nil {
			return err
		}
	}
	return nil
}

// findFreePort returns a loopback port that is free now. It is below those that systems
// give to outgoing connections, so that the port of a stopped server stays free.
func findFreePort() (int, error) {
	var err error
	for range 100 {
		port := 12000 + rand.IntN(20000)
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, err
}

// portTries is how often a first start is tried on another port: a free port may be
// taken when the server wants it.
const portTries = 5
