//go:build unix

package local

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"strings"

	"github.com/volehq/vole/driver"
	"golang.org/x/sys/unix"
)

// A file that is being written has no name and no charge until it is complete. So that many
// slow writers do not store many times the quota together, the files in a volume's tmp
// directory have a bound of their own. It is checked by reading that directory, not by a
// counter, so it holds across processes and after crashes.
const (
	unnamedFirst = 64 << 10 // how much of a file is written before the first look
	unnamedStep  = 1 << 20  // and between two looks
	unnamedSlack = 16 << 20 // of the bound, for many small files in a small volume
)

// maxUnnamedBytes is the bound for a quota: there is room to replace all that a volume holds,
// twice at the same time.
func maxUnnamedBytes(quota int64) int64 {
	return 2*min(quota, math.MaxInt64/4) + unnamedSlack
}

// unnamedLimiter returns a function to call before a file without a name grows to n bytes.
// ErrQuota: all such files of the volume together are too large.
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

// sumUnnamedBytes is the storage of the files in tmp, without trees in removal, which are still
// charged.
func (f *volumeFS) sumUnnamedBytes() (sum int64, err error) {
	err = forEachTemp(f.volumeDir, "tmp", func(tmp *os.File, name string) error {
		if strings.HasSuffix(name, removedSuffix) {
			return nil
		}
		st, err := resolved{parent: tmp, name: name}.lstat()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			sum += int64(st.Blocks) * 512
		}
		return err
	})
	return sum, err
}
