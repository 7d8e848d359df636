// Package disk keeps disk volumes. Each is an image: a sparse file of the home that holds an ext4
// file system, the files of which are used without a mount.
//
// A [Set] has the disk volumes of one home. Of the home it knows no more than [Home] says: the
// rows of its volumes, who has them attached, and the counter that a use is charged to. The home
// gets the files of a volume ([Volume.OpenFS]), a hold on its image for consumers that use that
// as a block device ([Volume.Attach]), and what its care takes: creation, growth, the sum of the
// files, a check, and the locks of a removal.
//
// From top to bottom:
//
//	volumeFS, handle  driver.FS and driver.File, each with a life of its own
//	sharedFS          the open file system, one for each volume that this process uses
//	heldImage         an image, its side log, and the right to use both
//	device            a file as ext4 uses it
//
// Only the lower two, with the locks of hold.go and what image.go does to files of the host,
// know that an image is a file. All above works on a block device: ReadAt, WriteAt, Sync,
// Truncate, PunchHole, how large and how full it is, and whether it was removed. That is the seam
// at which a namespace on a server could keep images as blobs.
package disk
