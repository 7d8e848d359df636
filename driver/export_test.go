package driver

// Classes returns the table of translations.
func Classes() []Class { return classes }
