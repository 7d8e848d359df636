// Package proc tells what the operating system knows of processes.
package proc
