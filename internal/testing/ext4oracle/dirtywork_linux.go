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

// dirtyWriter keeps a file system busy such that its journal is worth recovering.
type dirtyWriter struct {
	populator
	small   bool
	room    int64 // free space to leave at the start
	open    []*os.File
	commits int
}

// close closes the files that were removed.
func (w *dirtyWriter) close() {
	for _, f := range w.open {
		f.Close()
	}
	w.open = nil
}

// run changes the file system in several transactions, all of which are in the
// journal at the end. What is done last is in no transaction that was committed.
func (w *dirtyWriter) run(orphans bool) {
	w.ballast()
	w.grow()
	w.commit()
	w.remove("tree")
	w.commit() // from here on, the blocks of the directories may be used for data
	w.reuse()
	w.churn()
	w.commit()
	if orphans {
		w.orphans()
	}
	w.magic()
	for i := range 50 {
		w.must(os.Remove(w.path(fmt.Sprintf("a/f%d", 200+i))))
	}
	w.commit()
	w.file("never-committed", []byte("lost"))
	w.must(os.Remove(w.path("a/f300")))
}

// ballast leaves little free space, so that space that becomes free is used again.
func (w *dirtyWriter) ballast() {
	var st unix.Statfs_t
	w.must(unix.Statfs(w.root, &st))
	n := int64(st.Bfree)*st.Bsize - w.room
	if w.err != nil || n <= 0 {
		return
	}
	f, err := os.Create(w.path("ballast"))
	if err != nil {
		w.must(err)
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
	w.must(err)
	w.commit()
}

// commit puts everything that was done into the journal, and all data in its place.
// A syncfs would write the metadata in its place too, so that recovery had nothing to do.
func (w *dirtyWriter) commit() {
	if w.err == nil {
		w.must(filepath.WalkDir(w.root, startWriting))
	}
	w.commits++
	f, err := os.Create(w.path("commit"))
	if err != nil {
		w.must(err)
		return
	}
	defer f.Close()
	if _, err = fmt.Fprintln(f, w.commits); err == nil {
		err = f.Sync()
	}
	w.must(err)
}

// startWriting has the kernel choose the blocks of a file's data.
func startWriting(path string, d fs.DirEntry, err error) error {
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

// grow makes files, and a tree of directories that is removed later.
func (w *dirtyWriter) grow() {
	w.fill("a", 400, func(i int) string { return fmt.Sprintf("f%d", i) })
	for i := range 120 {
		dir := fmt.Sprintf("tree/%d/sub", i)
		w.fill(dir, 6, func(j int) string { return fmt.Sprintf("file%d-%d", i, j) })
		w.setxattr(dir, "user.large", w.bytes(500)) // a block of its own
	}
	w.fill("tree/large", 400, func(i int) string { return fmt.Sprintf("%0200d", i) })
	w.scatterBlocks("tree/extents")
	w.scatterBlocks("extents")
}

// scatterBlocks writes a file of many extents.
func (w *dirtyWriter) scatterBlocks(name string) {
	n := int64(500)
	if w.small {
		n = 100
	}
	for i := range n {
		w.write(name, 2*i*w.block, w.bytes(100))
	}
}

// remove removes a tree.
func (w *dirtyWriter) remove(name string) {
	if w.err == nil {
		w.must(os.RemoveAll(w.path(name)))
	}
}

// reuse writes files until there is no room, and makes some room again.
func (w *dirtyWriter) reuse() {
	w.mkdir("reuse")
	most := 2000
	if w.small {
		most = 150
	}
	i := 0
	for ; i < most && w.err == nil; i++ {
		err := os.WriteFile(w.path(fmt.Sprintf("reuse/n%d", i)), w.bytes(20000), 0o600)
		if errors.Is(err, unix.ENOSPC) {
			break
		}
		w.must(err)
	}
	for j := range 60 {
		if w.err == nil && j < i {
			w.must(os.Remove(w.path(fmt.Sprintf("reuse/n%d", j))))
		}
	}
	w.commit()
}

// churn renames, removes, links and changes attributes.
func (w *dirtyWriter) churn() {
	for i := range 100 {
		w.must(os.Remove(w.path(fmt.Sprintf("a/f%d", i))))
		w.must(os.Rename(w.path(fmt.Sprintf("a/f%d", 100+i)), w.path(fmt.Sprintf("a/renamed%d", i))))
	}
	w.setxattr("a/renamed1", "user.z", []byte("z"))
	w.must(os.Symlink("target", w.path("a/symlink")))
	w.must(os.Link(w.path("a/renamed2"), w.path("hard")))
	w.must(unix.Chmod(w.path("a/renamed3"), 0o4711))
	w.must(os.Lchown(w.path("a/renamed4"), 70000, 70001))
	w.truncate("a/renamed5", 1<<30)
	w.truncate("extents", 100*w.block+17)
	for i := range 50 {
		w.mkdir(fmt.Sprintf("dirs/%d/x", i))
	}
}

// orphans leaves files and directories that have no name but are open.
func (w *dirtyWriter) orphans() {
	keep := func(name string) {
		f, err := os.Open(w.path(name))
		if err == nil {
			w.open = append(w.open, f)
			err = os.Remove(w.path(name))
		}
		w.must(err)
	}
	w.mkdir("orphans")
	for i := range 20 {
		name := fmt.Sprintf("orphans/file%d", i)
		w.file(name, w.bytes(1000*i))
		w.setxattr(name, "user.large", w.bytes(300+i))
		w.commit()
		keep(name)
	}
	w.scatterBlocks("orphans/extents")
	w.commit()
	keep("orphans/extents")
	w.must(os.Symlink(strings.Repeat("s", 255), w.path("orphans/symlink")))
	w.must(os.Remove(w.path("orphans/symlink")))
	w.mkdir("orphans/dir")
	keep("orphans/dir")
	fd, err := unix.Open(w.root, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		w.must(err)
		return
	}
	f := os.NewFile(uintptr(fd), "temporary")
	w.open = append(w.open, f)
	_, err = f.Write(w.bytes(50000))
	w.must(err)
}
