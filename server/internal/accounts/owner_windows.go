package accounts

// refuseForeignLinks refuses nothing: making a symbolic link takes a privilege here.
func refuseForeignLinks(string) error { return nil }
