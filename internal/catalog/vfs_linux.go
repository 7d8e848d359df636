package catalog

import (
	"fmt"
	"os"
	"sync"
	"unsafe"

	"modernc.org/libc"
	"modernc.org/libc/sys/types"
	sqlite3 "modernc.org/sqlite/lib"
)

// A catalog in an open directory is opened by the kernel's own link to that directory,
// /proc/self/fd/N: whatever becomes of the directory's path meanwhile, each connection,
// log and index of the log is opened in the directory that was checked. SQLite's own way
// of opening files would resolve that link to a path first, and links among the files
// with it. The file system that is registered here takes names as they are, and
// SQLite opens them with O_NOFOLLOW.

// openDirVFS is the name of that file system of SQLite (https://www.sqlite.org/vfs.html).
const openDirVFS = "vole-held"

// pathInOpenDir returns a path by which SQLite reaches name in an open directory, and the file
// system that opens it so. ok is false where /proc is missing.
func pathInOpenDir(dir *os.File, name string) (path, vfs string, ok bool) {
	link := fmt.Sprintf("/proc/self/fd/%d", dir.Fd())
	at, err := os.Stat(link)
	if err != nil {
		return "", "", false
	}
	here, err := dir.Stat()
	if err != nil || !os.SameFile(at, here) || registerOpenDirVFS() != nil {
		return "", "", false
	}
	return link + "/" + name, openDirVFS, true
}

// registerOpenDirVFS registers the file system, once: a copy of SQLite's own except for the way
// in which it makes names absolute.
var registerOpenDirVFS = sync.OnceValue(func() error {
	tls := libc.NewTLS()
	defer tls.Close()
	base := sqlite3.Xsqlite3_vfs_find(tls, 0)
	name, err := libc.CString(openDirVFS) // kept, like the rest, as long as the process lives
	if err != nil {
		return err
	}
	size := unsafe.Sizeof(sqlite3.Tsqlite3_vfs{})
	own := libc.Xmalloc(tls, types.Size_t(size))
	if base == 0 || own == 0 {
		return fmt.Errorf("register a file system with SQLite: no memory")
	}
	vfs := vfsAtAddress(own)
	*vfs = *vfsAtAddress(base)
	vfs.FpNext = 0
	vfs.FzName = name
	vfs.FxFullPathname = *(*uintptr)(unsafe.Pointer(&struct {
		f func(*libc.TLS, uintptr, uintptr, int32, uintptr) int32
	}{keepFullPathname}))
	if rc := sqlite3.Xsqlite3_vfs_register(tls, own, 0); rc != sqlite3.SQLITE_OK {
		return fmt.Errorf("register a file system with SQLite: code %d", rc)
	}
	return nil
})

// vfsAtAddress returns the structure at an address in SQLite's memory, which Go does not manage.
func vfsAtAddress(addr uintptr) *sqlite3.Tsqlite3_vfs {
	return *(**sqlite3.Tsqlite3_vfs)(unsafe.Pointer(&addr))
}

// keepFullPathname is xFullPathname: the name is absolute as it is.
func keepFullPathname(tls *libc.TLS, _, name uintptr, size int32, out uintptr) int32 {
	n := libc.Xstrlen(tls, name) + 1
	if n > types.Size_t(size) {
		return sqlite3.SQLITE_CANTOPEN
	}
	libc.Xmemcpy(tls, out, name, n)
	return sqlite3.SQLITE_OK
}
