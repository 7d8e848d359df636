// Package ext4 makes, reads, writes, checks and grows ext4 file systems in images, in
// pure Go: without a mount, without root, and on any operating system.
//
// # Model
//
// An image is a [Device]: a file, most often sparse, that holds one file system.
// [Format] makes an empty one. [Open] returns an [FS], whose methods act on files by
// path, or by handle ([File], [Dir]). Images written by Linux or mke2fs can be read with any
// features; Linux mounts the images that this package writes, and e2fsck finds them clean.
//
// Images with blocks of 1 to 4 KiB, extents, and the features that mke2fs gives a new file
// system are also written. Others are opened with [OpenOptions.ReadOnly].
//
// # Crashes
//
// Each change is part of a transaction in the file system's log (jbd2, ordered mode, with
// checksums), and so takes effect as a whole or not at all, whenever a process is killed or
// the power fails; an operation that fails leaves no trace. A call that returned nil is
// durable, unless [OpenOptions.Batch] is set: then [FS.Sync] and [FS.Close] make all earlier
// calls durable. Content that [File.WriteAt] overwrites in place may be old in some sectors
// and new in others after a crash, as with Linux. A log that a crash left, of transactions
// or of fast commits, is replayed when the image is opened. Images below 8 MiB have no room
// for a log, and are written without these promises unless [OpenOptions.SideLog] gives them
// one.
//
// # Rules
//
// While an FS is open, nothing else may have the image mounted or open for writing; this
// package takes no locks. Sizes are bytes, times UTC. Paths are slash-separated,
// relative to the root, and "." is the root. Symbolic links are followed only within
// the image. Errors for which POSIX has a number are [syscall.Errno]; see also
// [ErrCorrupt], [ErrUnsupported] and [ErrEscape].
//
// # Sources
//
// The format is described in the Linux kernel's Documentation/filesystems/ext4 and
// journal formats in include/linux/jbd2.h. Images are not trusted: sizes are checked before
// memory is allocated, and loops are bounded.
package ext4
