package ext4oracle

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// ownNamespace marks the process that Main started.
const ownNamespace = "EXT4_ORACLE_NAMESPACE"

// Main runs the tests of a package that mounts images, as root in a mount namespace of
// their own. Otherwise a namespace that another process creates at the same time, as tests
// of containers do, would inherit the mounts, and the kernel would go on using images that
// were unmounted here.
func Main(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(ownNamespace) != "" || isFuzzing() {
		os.Exit(m.Run())
	}
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	keep, err := os.MkdirTemp("", "vole-oracle-keep-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	cmd.Env = append(os.Environ(), ownNamespace+"=1", keepDirectory+"="+keep)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	os.RemoveAll(keep)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		os.Exit(max(exit.ExitCode(), 1))
	}
	if err != nil {
		// Without the right to a namespace there are no mounts either.
		fmt.Fprintf(os.Stderr, "no mount namespace: %v\n", err)
		os.Exit(m.Run())
	}
	os.Exit(0)
}

// isFuzzing reports whether go test -fuzz runs, whose workers are children of this
// process.
func isFuzzing() bool {
	for _, a := range os.Args[1:] {
		if strings.HasPrefix(strings.TrimLeft(a, "-"), "test.fuzz=") || strings.Contains(a, "test.fuzzworker") {
			return true
		}
	}
	return false
}
