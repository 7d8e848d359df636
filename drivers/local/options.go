// Package local keeps volumes in a directory of this host: the home.
//
//	catalog.db             the rows of volumes and attachments (SQLite, see internal/catalog)
//	volumes/<id>/data/     a dir volume's files
//	volumes/<id>/tmp/      files being written, before they are renamed into data
//	volumes/<id>/disk.raw  a disk volume's image
//	volumes/<id>/disk.log  the log of an image that is too small to hold one
//	locks/<id>             a volume's counter and locks, while its files are changed
//	locks/processes/<id>   locked by a process as long as it lives
//	lost+found/            found by Check, belonging to no volume
//	ballast                space that operations which free space get when the disk is full
//	ballast-inodes/        empty files, the inodes of which it gets, too
//
// The catalog is the truth. A volume is made by committing it as creating, making its
// directory, and committing it as ready (data/ follows at first use); it is removed by
// committing it as removing, deleting its directory, and deleting its row. Each such row names
// the process that works on it, and that process holds a lock that the kernel drops when the
// process dies. So the next process that opens the home can tell unfinished work from work in
// progress, and finishes or undoes it. The same holds for attachments and for usage counters.
//
// Any number of processes may have a home open. All of them run on one host.
package local

import (
	"os"
	"path/filepath"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/fault"
)

// Options says how to open a home. The zero value opens for reading and writing.
type Options struct {
	ReadOnly bool             // change nothing
	Clock    func() time.Time // default time.Now
	// ForeignHome allows a home that belongs to another user. Its content is checked all
	// the same, but its owner can see, change and remove everything there.
	ForeignHome bool
	// NoDevices refuses device nodes, for programs that act for other users: a node that root
	// makes in a directory of this host is the device. Default: root may make them, on Linux.
	NoDevices bool

	faults *fault.Injector // of tests; see export_test.go
}

// DefaultHome is $VOLE_HOME, else /var/lib/vole for root, else $XDG_DATA_HOME/vole, which is
// ~/.local/share/vole if that is not set.
func DefaultHome() (string, error) {
	if h := os.Getenv("VOLE_HOME"); h != "" {
		return h, nil
	}
	if os.Geteuid() == 0 {
		return "/var/lib/vole", nil
	}
	if d := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "vole"), nil
	}
	h, err := os.UserHomeDir()
	if err != nil {
		return "", driver.Errorf(driver.ErrInvalid, "no place for volumes: %v; set VOLE_HOME", err)
	}
	return filepath.Join(h, ".local", "share", "vole"), nil
}
