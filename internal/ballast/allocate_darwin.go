package ballast

import "os"

// allocateBytes gives the file that many bytes of the disk.
func allocateBytes(f *os.File, size int64) error { return writeRandomBytes(f, size) }
