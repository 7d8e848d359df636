//go:build unix

package local

import (
	"errors"
	"io"
	"io/fs"
	"math"
	"strings"

	"github.com/volehq/vole/driver"
	"golang.org/x/sys/unix"
)

// What is being written to a volume has no name and no charge until it is complete. So that
// many who write at once, and slowly, do not store many times the quota meanwhile, what lies
// in the volume's tmp directory has a bound of its own. It is looked at there, not counted:
// so it is the same for all processes, and right after a crash.
const (
	unnamedFirst = 64 << 10 // how much of a file is written before the first look
	unnamedStep  = 1 << 20  // and between two looks
	unnamedSlack = 16 << 20 // of the bound, for many small files in a small volume
)

// maxUnnamedBytes is the bound: there is room to replace all that a volume holds, twice at once.
func maxUnnamedBytes(quota int64) int64 {
	return 2*min(quota, math.MaxInt64/4) + unnamedSlack
}

// unnamedLimiter returns a function to call before a file without a name grows to n bytes.
func (f *volumeFS) unnamedLimiter(c *counter) func(n int64) error {
	next := int64(unnamedFirst)
	return func(n int64) error {
		quota := c.page.load(offQuota)
		if quota == 0 || n < next {
			return nil
		}
		next = n + unnamedStep
		held, err := f.sumUnnamedBytes()
		if err == nil && held > maxUnnamedBytes(quota) {
			err = driver.Errorf(driver.ErrQuota,
				"%d bytes are being written to the volume already, as many as its quota of %s allows at once; try again when they are complete", held, driver.Size(quota))
		}
		return err
	}
}

// sumUnnamedBytes is the storage of the files in tmp. What is being removed is charged still.
func (f *volumeFS) sumUnnamedBytes() (int64, error) {
	dir, err := openDirAt(f.volumeDir, "tmp")
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	var sum int64
	for {
		names, err := dir.Readdirnames(1024)
		if errors.Is(err, io.EOF) {
			return sum, nil
		}
		if err != nil {
			return 0, err
		}
		for _, n := range names {
			if strings.HasSuffix(n, removedSuffix) {
				continue
			}
			st, err := resolved{parent: dir, name: n}.lstat()
			if err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
				sum += int64(st.Blocks) * 512
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return 0, err
			}
		}
	}
}
