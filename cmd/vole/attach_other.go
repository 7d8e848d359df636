//go:build !linux

package main

import (
	"os/exec"
	"syscall"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// runHelperIfAsked has nothing to do: there are no helpers on this system.
func runHelperIfAsked() {}

// killedWithParent is empty: this system does not end a child with its parent.
func killedWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

// makeReadOnly refuses: there are no mount namespaces.
func makeReadOnly(*exec.Cmd, string) error {
	return driver.Errorf(vole.ErrUnsupported, "attach --ro: the kernel can enforce it on Linux only; 'vole cp' copies the files out")
}

func readOnlyMountError(err error) error { return err }
