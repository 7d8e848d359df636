package ballast

import "os"

// allocateBytes gives the file size bytes of storage.
func allocateBytes(f *os.File, size int64) error { return writeRandomBytes(f, size) }
