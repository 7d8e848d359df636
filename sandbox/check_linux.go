package sandbox

import (
	"cmp"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// normalizeConfig checks c and fills in what does not depend on the host.
func (c *Config) normalizeConfig() error {
	if c.Name != "" {
		if err := checkSandboxName(c.Name); err != nil {
			return err
		}
	}
	mounts, err := checkMounts(c.Mounts)
	if err != nil {
		return err
	}
	c.Mounts = mounts
	switch {
	case c.Rootfs != "" && c.Image != "":
		return driver.Errorf(vole.ErrInvalid, "a root is either a directory or an image; give one of them")
	case len(c.Args) == 0 && len(c.Entrypoint) == 0 && c.Image == "":
		return driver.Errorf(vole.ErrInvalid, "there is no command to run")
	case len(c.Args) > 0 && c.Args[0] == "" && c.Image == "":
		return driver.Errorf(vole.ErrInvalid, "the command is empty")
	case c.Pull != "" && c.Image == "":
		return driver.Errorf(vole.ErrInvalid, "there is no image to pull; name one")
	case c.Pull != "" && c.Pull != PullMissing && c.Pull != PullAlways && c.Pull != PullNever:
		return driver.Errorf(vole.ErrInvalid, "unknown pull policy %q; use missing, always or never", c.Pull)
	case c.Network == "":
		c.Network = NetworkNone
	case c.Network != NetworkNone && c.Network != NetworkHost:
		return driver.Errorf(vole.ErrInvalid, "unknown network %q; use none or host", c.Network)
	}
	if c.Cwd != "" && (!path.IsAbs(c.Cwd) || strings.ContainsRune(c.Cwd, 0) || !utf8.ValidString(c.Cwd)) {
		return driver.Errorf(vole.ErrInvalid, "working directory %q must be an absolute path", c.Cwd)
	}
	for _, a := range append(append([]string{c.User}, c.Args...), c.Entrypoint...) {
		if strings.ContainsRune(a, 0) {
			return driver.Errorf(vole.ErrInvalid, "argument %q has a NUL byte", a)
		}
		if !utf8.ValidString(a) {
			return driver.Errorf(vole.ErrUnsupported, "argument %q is not UTF-8, which the runtime's configuration (JSON) cannot hold", a)
		}
	}
	return cmp.Or(c.checkEnvironment(), c.checkLimits())
}

func (c *Config) checkEnvironment() error {
	for _, e := range c.Env {
		k, _, ok := strings.Cut(e, "=")
		if !ok || k == "" || strings.ContainsRune(e, 0) {
			return driver.Errorf(vole.ErrInvalid, "environment %q: write KEY=VALUE", e)
		}
		if !utf8.ValidString(e) {
			return driver.Errorf(vole.ErrUnsupported, "environment %q is not UTF-8, which the runtime's configuration (JSON) cannot hold", e)
		}
	}
	return nil
}

// minMemory is the least memory with which a runtime starts a command at all.
const minMemory = 8 * vole.MiB

func (c *Config) checkLimits() error {
	switch {
	case c.Memory < -1 || c.Memory > 0 && c.Memory < minMemory:
		return driver.Errorf(vole.ErrInvalid, "memory %v: must be at least %v", c.Memory, minMemory)
	case c.Pids < -1:
		return driver.Errorf(vole.ErrInvalid, "pids %d: must be positive, or -1 for no limit", c.Pids)
	case c.CPUs < 0 || c.CPUs != c.CPUs || c.CPUs > 1<<16 || c.CPUs > 0 && c.CPUs < 0.01:
		return driver.Errorf(vole.ErrInvalid, "cpus %v: must be from 0.01 to %d", c.CPUs, 1<<16)
	}
	return nil
}

// checkSandboxName checks a sandbox's name, which follows the rule of volumes' names in 64
// bytes, so that it fits a host name and a holder's name.
func checkSandboxName(name string) error {
	if len(name) > 64 {
		return driver.Errorf(vole.ErrInvalid, "the sandbox's name is %d bytes long; the most is 64", len(name))
	}
	if driver.ValidateName(name) != nil {
		return driver.Errorf(vole.ErrInvalid,
			"sandbox name %q: a name is 1 to 64 letters, digits, '.', '_' and '-', and starts with a letter or digit", name)
	}
	return nil
}

func (c *Config) describeRoot() string {
	switch {
	case c.Image != "":
		return "image:" + c.Image
	case c.Rootfs != "":
		return "dir:" + c.Rootfs
	}
	return "host"
}
