package ext4

import (
	"errors"
	"io"
	"os"
)

// Device is the storage of an image, most often an [*os.File]. Reads beyond the end of
// what was written return zeros up to the size of the image, as those of a sparse file do.
// Sync returns once all earlier writes survive a power cut. After a crash a write of 512
// bytes at a multiple of 512 must be there as a whole or not at all; nothing more is
// assumed.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// puncher is a Device that can free the storage of a range.
type puncher interface {
	// PunchHole makes a range read as zeros and frees its storage.
	PunchHole(off, length int64) error
}

// readFull reads all of p. Beyond the end of a sparse file it reads zeros.
func readFull(dev io.ReaderAt, p []byte, off int64) error {
	n, err := dev.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		clear(p[n:])
		return nil
	}
	return err
}

// writeAndSync writes b and makes it durable, with all that was written before.
func writeAndSync(dev Device, b []byte, off int64) error {
	if _, err := dev.WriteAt(b, off); err != nil {
		return err
	}
	return dev.Sync()
}

// deviceSize returns the size of a device in bytes; 0: it does not tell.
func deviceSize(dev Device) int64 {
	if f, ok := dev.(interface{ Stat() (os.FileInfo, error) }); ok {
		if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
			return st.Size()
		}
	}
	if f, ok := dev.(io.Seeker); ok { // a block device
		if n, err := f.Seek(0, io.SeekEnd); err == nil {
			return n
		}
	}
	return 0
}
