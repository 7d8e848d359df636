package ext4

// HasOrphans reports whether the file system may list inodes that are to be removed or
// truncated.
func (fs *FS) HasOrphans() bool { return len(fs.orphans) > 0 || fs.sb.roCompat&roOrphanPresent != 0 }
