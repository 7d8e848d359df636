// Package ext4 makes, reads, writes, checks and grows ext4 file systems in images, in
// pure Go: without a mount, without root, and on any operating system.
//
// # Model
//
// An image is a [Device]: a file, most often sparse, that holds one file system.
// [Format] makes an empty one. [Open] returns an [FS], whose methods act on files by
// path, or by handle ([File], [Dir]). What Linux or mke2fs wrote can be read whatever
// features it has; what is written here Linux mounts, and e2fsck finds clean.
//
// Images with blocks of 1 to 4 KiB, extents, and the features that mke2fs gives a new file
// system are also written. Others are opened with [OpenOptions.ReadOnly].
//
// # Crashes
//
// Each change is part of a transaction in the file system's log (jbd2, ordered mode,
// with checksums), and so happens as a whole or not at all, whatever the instant at
// which a process is killed or the power fails; an operation that fails leaves no
// trace. A call that returned nil is durable, unless [OpenOptions.Batch] was asked
// for: then [FS.Sync] and [FS.Close] make all earlier calls durable. Content that is
// written over in place, by [File.WriteAt], may be old in some sectors and new in
// others after a crash, as with Linux. A log that a crash left, of transactions or of
// fast commits, is replayed when the image is opened. An image without a log, which below
// 8 MiB there is no room for, is written without these promises, unless it is given one:
// [OpenOptions.SideLog].
//
// # Rules
//
// Nobody else may have the image open for writing, or mounted, while an FS is open;
// this package takes no locks. Sizes are bytes, times UTC. Paths are slash-separated,
// relative to the root, and "." is the root. Symbolic links are followed only within
// the image. Errors for which POSIX has a number are [syscall.Errno]; see also
// [ErrCorrupt], [ErrUnsupported] and [ErrEscape].
//
// # Sources
//
// The format is described in the Linux kernel's Documentation/filesystems/ext4 and
// journal formats in include/linux/jbd2.h. Nothing that an image says is trusted:
// sizes are checked before memory is taken, and loops are bounded.
package ext4
