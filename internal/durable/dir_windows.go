package durable

import "os"

// SyncDir does nothing: Windows flushes no directories, and its file systems log changes
// of them.
func SyncDir(string) error { return nil }

// mkdirInheriting makes a directory, which inherits the access list of the one above.
func mkdirInheriting(path string) error { return os.Mkdir(path, 0o700) }

// createInheriting makes an empty file, which inherits the access list of its directory.
func createInheriting(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}
