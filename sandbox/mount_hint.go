package sandbox

import (
	"path"
	"strings"
	"unicode"

	"github.com/volehq/vole/driver"
)

// grammar is how a mount is written.
const grammar = "NAME:/guest/path[:options]"

// isHostPath reports whether the name of a volume or an image is meant as a path of the host, which
// other tools take for a volume. No such name begins like that.
func isHostPath(name string) bool {
	return name != "" && strings.Contains("/.~", name[:1])
}

// explainHostPath says how files of the host come into a volume.
func explainHostPath(mount, host, guest string) error {
	name := "NAME"
	if base := path.Base(path.Clean(host)); driver.ValidateName(base) == nil {
		name = base
	}
	if !strings.HasPrefix(guest, "/") {
		guest = "/guest/path"
	}
	return invalidMount(mount, "%q is no volume's name but a path of the host, which a sandbox does not see; write "+grammar+
		". 'vole create --from %s %s' makes a volume with the files in it, to be mounted with -v %s:%s, and 'vole cp' brings back what changed",
		host, quoteShellWord(host), name, name, guest)
}

// quoteShellWord is s as a shell takes it for one word.
func quoteShellWord(s string) string {
	if strings.ContainsFunc(s, func(c rune) bool {
		return !strings.ContainsRune("/._-+,~", c) && !unicode.IsLetter(c) && !unicode.IsDigit(c)
	}) {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}

// explainSlashInName says how a part of a volume is mounted, which is perhaps meant.
func explainSlashInName(mount, name string) error {
	volume, dir, _ := strings.Cut(name, "/")
	return invalidMount(mount, "%v. A directory of a volume is mounted with the option subpath=%s of %s; files of the host come into a volume by 'vole create --from %s'",
		driver.ValidateName(name), dir, volume, quoteShellWord(name))
}

// explainMissingTarget is the error of a mount without a colon.
func explainMissingTarget(mount string) error {
	switch {
	case strings.Contains(mount, "=") && strings.Contains(mount, ","):
		return invalidMount(mount, "keys and values are not read here; write "+grammar)
	case strings.HasPrefix(mount, "/"):
		return invalidMount(mount, "the name of a volume is missing; write "+grammar+", as NAME:%s; a volume that does not exist is made", path.Clean(mount))
	case isHostPath(mount):
		return explainHostPath(mount, mount, "")
	case driver.ValidateName(mount) == nil:
		return invalidMount(mount, "the path in the sandbox is missing; write "+grammar+", as %s:/%s", mount, mount)
	}
	return invalidMount(mount, "write "+grammar)
}

// foreignOptions are the mount options of other tools, and why they are not needed here.
var foreignOptions = map[string]string{
	"z": "volumes are labelled by nobody", "Z": "volumes are labelled by nobody", "U": "owners stay as they are",
	"cached": "there is no cache between", "delegated": "there is no cache between", "consistent": "there is no cache between",
	"nocopy": "nothing of the root is copied into a volume", "volume-nocopy": "nothing of the root is copied into a volume",
	"private": "mounts are private", "rprivate": "mounts are private", "slave": "mounts are private", "rslave": "mounts are private",
	"shared": "mounts are private", "rshared": "mounts are private", "bind": "all mounts are", "rbind": "all mounts are",
	"exec": "that is the default", "suid": "that is the default",
}

// explainUnknownOption is the error of an option that does not exist, with its replacement.
func explainUnknownOption(mount, option string) error {
	if option == "readonly" {
		return invalidMount(mount, "unknown option %q; write ro", option)
	}
	if why := foreignOptions[option]; why != "" {
		return invalidMount(mount, "unknown option %q: %s; leave it out", option, why)
	}
	return invalidMount(mount, "unknown option %q; 'vole run --help' lists the options", option)
}
