package local

// nameOfDescriptor would ask the kernel for the name of an open file.
func nameOfDescriptor(int) string { return "" }

// chargedXattrBytes is what attributes are charged: here there are none.
func chargedXattrBytes(xattrs) int64 { return 0 }
