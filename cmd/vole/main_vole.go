//go:build !manpages

package main

import "os"

func main() {
	os.Exit(mainExitCode())
}
