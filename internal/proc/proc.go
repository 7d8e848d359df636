// Package proc tells what the operating system knows of this process.
package proc
