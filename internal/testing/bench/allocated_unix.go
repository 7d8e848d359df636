//go:build unix

package main

import (
	"os"
	"syscall"
)

// allocated is how many bytes of storage a file takes; 0 if that cannot be told.
func allocated(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512 // st_blocks is in units of 512 bytes, stat(2)
	}
	return 0
}
