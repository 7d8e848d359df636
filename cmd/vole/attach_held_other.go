//go:build !linux

package main

// processesUsing finds none: only Linux tells what other processes use.
func processesUsing(_, _ string) []volumeUser { return nil }
