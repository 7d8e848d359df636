//go:build !linux

package ext4

// punchHole makes a range of a device read as zeros, and frees its storage.
// ErrUnsupported: the device cannot.
func punchHole(dev Device, off, length int64) error {
	if p, ok := dev.(puncher); ok {
		return p.PunchHole(off, length)
	}
	return ErrUnsupported
}
