package main

// allocated is how many bytes of storage a file takes; 0: that cannot be told here.
func allocated(string) int64 { return 0 }
