// Package ext4workload generates random operations on a file system, and applies them to
// package ext4, to a directory by system calls, and to a model in memory that predicts the
// result.
package ext4workload
