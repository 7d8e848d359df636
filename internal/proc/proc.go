// Package proc returns facts about processes from the operating system.
package proc
