// Package loop makes and finds loop devices (loop(4)): block devices whose content is
// a file. The kernel keeps a file on such a device in use without any lock that others
// could see, so a process that wants an image to itself must look for such a device.
package loop

// Device is a loop device that has a file.
type Device struct {
	Name     string // e.g. "/dev/loop3"
	ReadOnly bool
}
