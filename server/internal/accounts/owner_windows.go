package accounts

// refuseForeignLinks refuses nothing: making a symbolic link takes a privilege here.
func refuseForeignLinks(string) error { return nil }

// inheritedOwner returns no owner: what is made inherits the access list of its directory.
func inheritedOwner(string) (uid, gid int, err error) { return -1, -1, nil }

func chownDir(string, int, int) error { return nil }
