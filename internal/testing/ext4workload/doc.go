// Package ext4workload makes random operations on a file system, and applies them to one of
// package ext4, to a directory by system calls, and to a model in memory that says what
// should be there afterwards.
package ext4workload
