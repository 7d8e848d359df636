package core

// descriptorLimit returns how many files this process may have open: Windows sets no limit
// that a server could reach.
func descriptorLimit() int { return 1 << 16 }
