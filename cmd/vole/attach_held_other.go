//go:build !linux

package main

// processesUsing finds none: only Linux tells what other processes use.
func processesUsing(...string) []volumeUser { return nil }
