// Package ext4oracle judges ext4 images by means that share nothing with package ext4: the
// tree that the running kernel shows for a mounted image, and the verdict of e2fsck.
//
// [ReadTree] takes a [Tree] of a mounted directory; a test builds another Tree with its
// own reader, and [Diff] compares the two. [Populate] writes the hard cases by ordinary
// system calls, [Matrix] lists formats to try, and [DirtyImages] lists images that were
// copied while they were in use, as after a power cut.
//
// Trees can be compared everywhere. Everything that mounts is for Linux, and needs root
// and e2fsprogs; without them it skips the test: see RequireRoot. Packages that mount run
// their tests through Main.
package ext4oracle
