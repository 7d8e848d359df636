//go:build unix

package local

import (
	"io/fs"
	"syscall"
	"time"
	"unsafe"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/filemode"
	"golang.org/x/sys/unix"
)

// entryOfStat translates the result of stat(2).
func entryOfStat(name string, st *unix.Stat_t) driver.Entry {
	return driver.Entry{
		Name:      name,
		Mode:      filemode.Go(uint32(st.Mode)),
		Size:      st.Size,
		Allocated: st.Blocks * 512, // stat(2): blocks of 512 bytes whatever the file system
		UID:       st.Uid,
		GID:       st.Gid,
		Nlink:     uint64(st.Nlink),
		Inode:     st.Ino,
		Rdev:      uint64(st.Rdev),
		Atime:     time.Unix(st.Atim.Unix()).UTC(),
		Mtime:     time.Unix(st.Mtim.Unix()).UTC(),
		Ctime:     time.Unix(st.Ctim.Unix()).UTC(),
	}
}

// entryOfInfo is entryOfStat for the results of os.Root.
func entryOfInfo(name string, info fs.FileInfo) driver.Entry {
	return entryOfStat(name, toUnixStat(info.Sys().(*syscall.Stat_t)))
}

// toUnixStat converts between two declarations of the same structure.
func toUnixStat(st *syscall.Stat_t) *unix.Stat_t { return (*unix.Stat_t)(unsafe.Pointer(st)) }
