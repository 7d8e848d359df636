package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/volehq/vole/sandbox"
)

// foreignFlags are flags that other tools have for running containers, and what there is
// here in their place.
var foreignFlags = map[string]string{
	"p": hintPorts, "publish": hintPorts, "P": hintPorts, "publish-all": hintPorts, "expose": hintPorts,
	"m": "write --memory", "memory-limit": "write --memory", "pids-limit": "write --pids", "c": "write --cpus", "cpu-quota": "write --cpus",
	"mount": "write -v NAME:/path[:options]", "volumes": "write -v NAME:/path[:options]", "tmpfs": "/tmp, /run and /dev/shm are in memory",
	"h": "the host name is the sandbox's: write --name", "hostname": "the host name is the sandbox's: write --name",
	"privileged": hintRights, "cap-add": hintRights, "device": hintRights, "security-opt": hintRights,
	"cap-drop": "a sandbox has few capabilities as it is", "read-only": "the root is thrown away afterwards; volumes are read-only with -v NAME:/path:ro",
	"restart": "nothing starts a sandbox again; a unit of systemd can", "init": "process 1 of a sandbox reaps as it is",
	"env-file": "write -e K=V for each variable", "platform": "images are run for the processor of this host",
}

const (
	hintPorts  = "a sandbox has no ports of its own: --network host gives it those of the host"
	hintRights = "a sandbox gets no rights beyond those of its user, and no devices"
)

// suggestRunFlag is suggestFlag, and knows what other tools call the flags of run.
func suggestRunFlag(cmd *cobra.Command, err error) error {
	unknown := (*pflag.NotExistError)(nil)
	if errors.As(err, &unknown) {
		if hint := foreignFlags[unknown.GetSpecifiedName()]; hint != "" {
			return &hinted{err, hint}
		}
	}
	return suggestFlag(cmd, err)
}

// suggestImage adds to the error for a command that is not on the host's root that it is
// perhaps the name of an image.
func suggestImage(c sandbox.Config, err error) error {
	missing := (*sandbox.ExecError)(nil)
	if c.Image != "" || c.Rootfs != "" || len(c.Args) == 0 || !errors.As(err, &missing) || missing.ExitCode != sandbox.ExitNotFound {
		return err
	}
	if name := c.Args[0]; !strings.HasPrefix(name, "/") && !strings.HasPrefix(name, ".") {
		return &hinted{err, "the command is one of this host; to run one of an image: vole run --image " + name + " -- COMMAND"}
	}
	return err
}
