package ext4oracle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// dirtyWriter changes a file system such that recovery of its journal is a good test.
type dirtyWriter struct {
	populator
	small        bool
	room         int64 // free space to leave at the start
	unlinkedOpen []*os.File
	commits      int
}

// closeUnlinked closes the files that were removed while open.
func (w *dirtyWriter) closeUnlinked() {
	for _, f := range w.unlinkedOpen {
		f.Close()
	}
	w.unlinkedOpen = nil
}

// makeTransactions changes the file system in several transactions, all of which are in
// the journal at the end. The last changes are in a transaction that is not committed. On
// the way directories are removed and their blocks reused for data: recovery must mind the
// revokes, or it destroys that data.
func (w *dirtyWriter) makeTransactions(orphans bool) {
	w.fillFreeSpace()
	w.makeFilesAndTree()
	w.commitToJournal()
	w.removeTree("tree")
	w.commitToJournal() // from here on, the blocks of the directories may be used for data
	w.reuseFreedBlocks()
	w.changeNamesAndAttrs()
	w.commitToJournal()
	if orphans {
		w.leaveOrphans()
	}
	w.writeJournalLookalikes()
	for i := range 50 {
		w.stopOnError(os.Remove(w.fullPath(fmt.Sprintf("a/f%d", 200+i))))
	}
	w.commitToJournal()
	w.writeFile("never-committed", []byte("lost"))
	w.stopOnError(os.Remove(w.fullPath("a/f300")))
}

// fillFreeSpace leaves little free space, so that freed blocks are used again.
func (w *dirtyWriter) fillFreeSpace() {
	var st unix.Statfs_t
	w.stopOnError(unix.Statfs(w.root, &st))
	n := int64(st.Bfree)*st.Bsize - w.room
	if w.err != nil || n <= 0 {
		return
	}
	f, err := os.Create(w.fullPath("ballast"))
	if err != nil {
		w.stopOnError(err)
		return
	}
	defer f.Close()
	err = unix.Fallocate(int(f.Fd()), 0, 0, n)
	if errors.Is(err, unix.EOPNOTSUPP) && !w.small {
		buf := make([]byte, mib)
		for off := int64(0); off < n; off += mib {
			_, err = f.WriteAt(buf, off)
		}
	}
	w.stopOnError(err)
	w.commitToJournal()
}

// commitToJournal commits all changes to the journal, and writes all data in place. syncfs
// would also write the metadata in place, and leave nothing to recover.
func (w *dirtyWriter) commitToJournal() {
	if w.err == nil {
		w.stopOnError(filepath.WalkDir(w.root, startWriteback))
	}
	w.commits++
	f, err := os.Create(w.fullPath("commit"))
	if err != nil {
		w.stopOnError(err)
		return
	}
	defer f.Close()
	if _, err = fmt.Fprintln(f, w.commits); err == nil {
		err = f.Sync()
	}
	w.stopOnError(err)
}

// startWriteback lets the kernel allocate the blocks of a file's data.
func startWriteback(path string, d fs.DirEntry, err error) error {
	if err != nil || !d.Type().IsRegular() {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
}

// makeFilesAndTree creates files, and a tree of directories to be removed later.
func (w *dirtyWriter) makeFilesAndTree() {
	w.fillDirectory("a", 400, func(i int) string { return fmt.Sprintf("f%d", i) })
	for i := range 120 {
		dir := fmt.Sprintf("tree/%d/sub", i)
		w.fillDirectory(dir, 6, func(j int) string { return fmt.Sprintf("file%d-%d", i, j) })
		w.setXattr(dir, "user.large", w.randomBytes(500)) // a block of its own
	}
	w.fillDirectory("tree/large", 400, func(i int) string { return fmt.Sprintf("%0200d", i) })
	w.writeManyExtents("tree/extents")
	w.writeManyExtents("extents")
}

// writeManyExtents writes a file of many extents.
func (w *dirtyWriter) writeManyExtents(name string) {
	n := int64(500)
	if w.small {
		n = 100
	}
	for i := range n {
		w.writeAt(name, 2*i*w.block, w.randomBytes(100))
	}
}

// removeTree removes a tree.
func (w *dirtyWriter) removeTree(name string) {
	if w.err == nil {
		w.stopOnError(os.RemoveAll(w.fullPath(name)))
	}
}

// reuseFreedBlocks writes files until no space is left, and then frees some.
func (w *dirtyWriter) reuseFreedBlocks() {
	w.makeDirs("reuse")
	most := 2000
	if w.small {
		most = 150
	}
	i := 0
	for ; i < most && w.err == nil; i++ {
		err := os.WriteFile(w.fullPath(fmt.Sprintf("reuse/n%d", i)), w.randomBytes(20000), 0o600)
		if errors.Is(err, unix.ENOSPC) {
			break
		}
		w.stopOnError(err)
	}
	for j := range 60 {
		if w.err == nil && j < i {
			w.stopOnError(os.Remove(w.fullPath(fmt.Sprintf("reuse/n%d", j))))
		}
	}
	w.commitToJournal()
}

// changeNamesAndAttrs renames, removes and links files, and changes attributes.
func (w *dirtyWriter) changeNamesAndAttrs() {
	for i := range 100 {
		w.stopOnError(os.Remove(w.fullPath(fmt.Sprintf("a/f%d", i))))
		w.stopOnError(os.Rename(w.fullPath(fmt.Sprintf("a/f%d", 100+i)), w.fullPath(fmt.Sprintf("a/renamed%d", i))))
	}
	w.setXattr("a/renamed1", "user.z", []byte("z"))
	w.stopOnError(os.Symlink("target", w.fullPath("a/symlink")))
	w.stopOnError(os.Link(w.fullPath("a/renamed2"), w.fullPath("hard")))
	w.stopOnError(unix.Chmod(w.fullPath("a/renamed3"), 0o4711))
	w.stopOnError(os.Lchown(w.fullPath("a/renamed4"), 70000, 70001))
	w.truncateFile("a/renamed5", 1<<30)
	w.truncateFile("extents", 100*w.block+17)
	for i := range 50 {
		w.makeDirs(fmt.Sprintf("dirs/%d/x", i))
	}
}

// leaveOrphans leaves files and directories that have no name but are open.
func (w *dirtyWriter) leaveOrphans() {
	keep := func(name string) {
		f, err := os.Open(w.fullPath(name))
		if err == nil {
			w.unlinkedOpen = append(w.unlinkedOpen, f)
			err = os.Remove(w.fullPath(name))
		}
		w.stopOnError(err)
	}
	w.makeDirs("orphans")
	for i := range 20 {
		name := fmt.Sprintf("orphans/file%d", i)
		w.writeFile(name, w.randomBytes(1000*i))
		w.setXattr(name, "user.large", w.randomBytes(300+i))
		w.commitToJournal()
		keep(name)
	}
	w.writeManyExtents("orphans/extents")
	w.commitToJournal()
	keep("orphans/extents")
	w.stopOnError(os.Symlink(strings.Repeat("s", 255), w.fullPath("orphans/symlink")))
	w.stopOnError(os.Remove(w.fullPath("orphans/symlink")))
	w.makeDirs("orphans/dir")
	keep("orphans/dir")
	fd, err := unix.Open(w.root, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		w.stopOnError(err)
		return
	}
	f := os.NewFile(uintptr(fd), "temporary")
	w.unlinkedOpen = append(w.unlinkedOpen, f)
	_, err = f.Write(w.randomBytes(50000))
	w.stopOnError(err)
}
