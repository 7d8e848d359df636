// Package ext4oracle judges ext4 images by means that share nothing with package ext4:
// what the running kernel shows of a mounted image, and what e2fsck says of it.
//
// [ReadTree] takes a [Tree] of a mounted directory; a test builds another Tree from
// what its own reader says, and [Diff] compares them. [Populate] writes the hard cases
// by ordinary system calls, [Matrix] lists formats to try, and [DirtyImages] lists
// images that were copied while they were in use.
//
// Trees can be compared everywhere. Everything that mounts is for Linux, needs root
// and e2fsprogs, and skips without root; see RequireRoot.
package ext4oracle
