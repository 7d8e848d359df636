package main

// earlyInit does what must happen before anything else of the process: when vole was
// started by itself as a helper, it becomes that helper and does not return.
func earlyInit() {
}
