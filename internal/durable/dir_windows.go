package durable

import "os"

// SyncDir does nothing: Windows flushes no directories, and its file systems log changes
// of them.
func SyncDir(string) error { return nil }

// inheritOwner does nothing: what is made inherits the access list of its directory.
func inheritOwner(*os.File) error { return nil }

func inheritDirOwner(string) error { return nil }
