package servers

import (
	"os/exec"
	"syscall"
)

func ownGroup(attr *syscall.SysProcAttr) { attr.CreationFlags |= syscall.CREATE_NEW_PROCESS_GROUP }

func startAsPostgresUser(cmd *exec.Cmd, log string, deathsig syscall.Signal) (*process, error) {
	return startProcess(cmd, log, deathsig)
}

func giveToPostgres(...string) error { return nil }

func supportsXattrs(string) bool { return false }
