package sandbox

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// Mode says whether a mount may make its volume.
type Mode string

const (
	ModeEnsure   Mode = "ensure"   // make the volume if it is missing; the default
	ModeExisting Mode = "existing" // fail if it is missing; the default of a read-only mount
	ModeCreate   Mode = "create"   // fail if it exists
)

// StatVirt says whether the owners, modes and device numbers that a sandbox sees are
// kept beside the host's. A bind mount shows the host's own, so that only
// StatVirtRelaxed and StatVirtOff are possible with it.
type StatVirt string

const (
	StatVirtStrict  StatVirt = "strict"  // needed, else the mount fails
	StatVirtRelaxed StatVirt = "relaxed" // used where it works
	StatVirtOff     StatVirt = "off"     // the host's stat
)

// HostPerms says which permissions files that a sandbox makes get on the host.
type HostPerms string

const (
	HostPermsPrivate HostPerms = "private" // 0600 and 0700 whatever the sandbox sets
	HostPermsMirror  HostPerms = "mirror"  // as the sandbox sets them
)

// Mount is one volume in a sandbox.
type Mount struct {
	Volume string // name of the volume
	Path   string // where it appears: absolute, clean, not "/"

	ReadOnly bool // nothing can be written through it
	NoExec   bool // no program on it can be executed
	NoSUID   bool // setuid and setgid bits on it mean nothing
	// Dev lets device nodes on the volume be opened, which reach the host's devices.
	// Without it none can be opened.
	Dev bool

	Mode     Mode      // "": ModeEnsure, or ModeExisting when ReadOnly
	Kind     vole.Kind // "": any existing, else a dir volume
	Quota    vole.Size // of a dir volume: given to a new one, required of an existing one; 0: any
	Capacity vole.Size // of a disk volume: given to a new one, required of an existing one; 0: any

	StatVirt  StatVirt  // "": what the mount offers
	HostPerms HostPerms // "": what the mount offers

	// Subpath is the directory of the volume to mount, in the form of
	// io/fs.ValidPath; "": the whole volume. It is resolved beneath the volume's
	// root, and made when it is missing and the mount is writable.
	Subpath string
}

// EffectiveMode is Mode, or its default when it is empty. A read-only mount makes no volume
// unless asked to: nothing could be read from a new one, so the name is probably mistyped.
func (m Mount) EffectiveMode() Mode {
	switch {
	case m.Mode != "":
		return m.Mode
	case m.ReadOnly:
		return ModeExisting
	}
	return ModeEnsure
}

// badPathBytes cannot be in a guest path, because they separate the parts of a mount or
// end a string.
const badPathBytes = ":;,\x00"

// ParseMount parses NAME:/guest/path[:opt,opt...]. The options are ro, rw, noexec,
// nosuid, nodev, dev, mode=existing|create|ensure, kind=dir|disk, size= and quota= (as
// [vole.ParseSize] reads them), stat-virt=strict|relaxed|off,
// host-perms=private|mirror and subpath=. Errors match ErrInvalid, or ErrPathEscape
// for a path with a ".." element, and name what is wrong.
func ParseMount(s string) (Mount, error) {
	name, rest, ok := strings.Cut(s, ":")
	if !ok {
		return Mount{}, explainMissingTarget(s)
	}
	guest, opts, hasOpts := strings.Cut(rest, ":")
	switch {
	case isHostPath(name):
		return Mount{}, explainHostPath(s, name, guest)
	case strings.Contains(name, "/"):
		return Mount{}, explainSlashInName(s, name)
	}
	m := Mount{Volume: name, Path: guest}
	if hasOpts {
		if err := m.parseOptions(s, opts); err != nil {
			return Mount{}, err
		}
	}
	if err := m.Normalize(); err != nil {
		return Mount{}, err
	}
	return m, nil
}

// invalidMount is ErrInvalid for the mount s.
func invalidMount(mount, format string, args ...any) error {
	return driver.Errorf(vole.ErrInvalid, "mount %q: "+format, append([]any{mount}, args...)...)
}

// parseOptions sets the fields of m for the options of the mount s, each given at most once.
func (m *Mount) parseOptions(text, opts string) error {
	seen := map[string]bool{}
	for opt := range strings.SplitSeq(opts, ",") {
		key, value, hasValue := strings.Cut(opt, "=")
		if opt == "" {
			return invalidMount(text, "an option is empty")
		}
		if seen[key] {
			return invalidMount(text, "option %q is given twice", key)
		}
		seen[key] = true
		flag, isFlag := flagOptions[key]
		set, isValue := valueOptions[key]
		switch {
		case isFlag && hasValue:
			return invalidMount(text, "option %q takes no value", key)
		case isFlag:
			flag(m)
		case isValue && (!hasValue || value == ""):
			return invalidMount(text, "option %q needs a value: write %s=...", key, key)
		case isValue:
			if err := set(m, value); err != nil {
				return invalidMount(text, "option %q: %v", opt, err)
			}
		default:
			return explainUnknownOption(text, key)
		}
	}
	for _, pair := range [][2]string{{"ro", "rw"}, {"dev", "nodev"}} {
		if seen[pair[0]] && seen[pair[1]] {
			return invalidMount(text, "options %q and %q exclude each other", pair[0], pair[1])
		}
	}
	return nil
}

var flagOptions = map[string]func(*Mount){
	"ro":     func(m *Mount) { m.ReadOnly = true },
	"rw":     func(m *Mount) { m.ReadOnly = false },
	"noexec": func(m *Mount) { m.NoExec = true },
	"nosuid": func(m *Mount) { m.NoSUID = true },
	"nodev":  func(m *Mount) { m.Dev = false },
	"dev":    func(m *Mount) { m.Dev = true },
}

var valueOptions = map[string]func(*Mount, string) error{
	"kind": func(m *Mount, v string) error { return chooseOption(&m.Kind, v, vole.KindDir, vole.KindDisk) },
	"mode": func(m *Mount, v string) error { return chooseOption(&m.Mode, v, ModeExisting, ModeCreate, ModeEnsure) },
	"stat-virt": func(m *Mount, v string) error {
		return chooseOption(&m.StatVirt, v, StatVirtStrict, StatVirtRelaxed, StatVirtOff)
	},
	"host-perms": func(m *Mount, v string) error {
		return chooseOption(&m.HostPerms, v, HostPermsPrivate, HostPermsMirror)
	},
	"size":    func(m *Mount, v string) error { return parsePositiveSize(&m.Capacity, v) },
	"quota":   func(m *Mount, v string) error { return parsePositiveSize(&m.Quota, v) },
	"subpath": func(m *Mount, v string) error { m.Subpath = v; return nil },
}

// MountOptions are the options of a mount as they are written, for completion. Behind those
// that end with = goes a value of the user's.
var MountOptions = []string{
	"dev", "host-perms=mirror", "host-perms=private", "kind=dir", "kind=disk", "mode=create", "mode=ensure", "mode=existing",
	"nodev", "noexec", "nosuid", "quota=", "ro", "rw", "size=", "stat-virt=off", "stat-virt=relaxed", "stat-virt=strict", "subpath=",
}

// chooseOption sets dst to v, which must be one of some words.
func chooseOption[T ~string](dst *T, v string, among ...T) error {
	if slices.Contains(among, T(v)) {
		*dst = T(v)
		return nil
	}
	words := make([]string, len(among))
	for i, a := range among {
		words[i] = string(a)
	}
	return driver.Errorf(vole.ErrInvalid, "use %s", strings.Join(words, ", "))
}

// parsePositiveSize sets dst to the size v, which must not be 0.
func parsePositiveSize(dst *vole.Size, v string) error {
	n, err := vole.ParseSize(v)
	if err == nil && n <= 0 {
		err = driver.Errorf(vole.ErrInvalid, "must be at least 1 byte")
	}
	*dst = n
	return err
}

// Normalize checks m and brings its paths into their clean form. Errors are those of
// [ParseMount].
func (m *Mount) Normalize() error {
	text := m.Volume + ":" + m.Path
	if err := driver.ValidateName(m.Volume); err != nil {
		return invalidMount(text, "%v", err)
	}
	clean, err := cleanGuestPath(m.Path)
	if err != nil {
		return driver.Errorf(escapeOrInvalid(err), "mount %q: %v", text, err)
	}
	m.Path = clean
	if m.Subpath != "" {
		sub, err := driver.CleanPath(m.Subpath)
		if err != nil {
			return driver.Errorf(escapeOrInvalid(err), "mount %q: subpath: %v", text, err)
		}
		if !utf8.ValidString(sub) {
			return invalidMount(text, "subpath %q is not UTF-8", sub)
		}
		if strings.Contains(sub, ",") {
			return invalidMount(text, "subpath %q: must not have ','", sub)
		}
		if m.Subpath = sub; sub == "." {
			m.Subpath = ""
		}
	}
	return m.checkVolumeKind(text)
}

// checkVolumeKind refuses combinations of options that the kind of the volume does not have.
func (m *Mount) checkVolumeKind(s string) error {
	if m.Quota < 0 || m.Capacity < 0 {
		return invalidMount(s, "a size is negative")
	}
	if m.Kind == vole.KindDisk {
		switch {
		case m.Quota != 0:
			return invalidMount(s, `option "quota" is not for kind=disk, whose size is its limit`)
		case m.StatVirt != "":
			return invalidMount(s, `option "stat-virt" is not for kind=disk`)
		case m.HostPerms != "":
			return invalidMount(s, `option "host-perms" is not for kind=disk`)
		case m.Mode == ModeCreate && m.Capacity == 0:
			return invalidMount(s, `kind=disk needs option "size" to create the volume`)
		}
	} else if m.Capacity != 0 {
		return invalidMount(s, `option "size" needs kind=disk; a dir volume takes "quota"`)
	}
	if m.StatVirt == StatVirtOff && m.HostPerms == HostPermsMirror {
		return invalidMount(s, "stat-virt=off excludes host-perms=mirror: there is nothing to mirror")
	}
	return nil
}

// cleanGuestPath checks a path in the sandbox and returns it clean.
func cleanGuestPath(p string) (string, error) {
	if !strings.HasPrefix(p, "/") {
		return "", driver.Errorf(vole.ErrInvalid, "guest path %q must be absolute", p)
	}
	if i := strings.IndexAny(p, badPathBytes); i >= 0 {
		return "", driver.Errorf(vole.ErrInvalid, "guest path %q must not have %q", p, p[i:i+1])
	}
	if !utf8.ValidString(p) {
		return "", driver.Errorf(vole.ErrInvalid, "guest path %q is not UTF-8", p)
	}
	clean, err := driver.CleanPath(p)
	if err != nil {
		return "", err
	}
	if clean == "." {
		return "", driver.Errorf(vole.ErrInvalid, `guest path must not be "/"`)
	}
	return "/" + clean, nil
}

// escapeOrInvalid returns ErrPathEscape when err matches it, else ErrInvalid.
func escapeOrInvalid(err error) error {
	if c := driver.Classify(err); c.Err == vole.ErrPathEscape {
		return c.Err
	}
	return vole.ErrInvalid
}

// String returns m in the grammar of [ParseMount], with its defaults left out.
func (m Mount) String() string {
	var opts []string
	add := func(on bool, opt string) {
		if on {
			opts = append(opts, opt)
		}
	}
	add(m.ReadOnly, "ro")
	add(m.NoExec, "noexec")
	add(m.NoSUID, "nosuid")
	add(m.Dev, "dev")
	add(m.Mode != "", "mode="+string(m.Mode))
	add(m.Kind != "", "kind="+string(m.Kind))
	add(m.Quota != 0, "quota="+m.Quota.String())
	add(m.Capacity != 0, "size="+m.Capacity.String())
	add(m.StatVirt != "", "stat-virt="+string(m.StatVirt))
	add(m.HostPerms != "", "host-perms="+string(m.HostPerms))
	add(m.Subpath != "", "subpath="+m.Subpath)
	s := m.Volume + ":" + m.Path
	if len(opts) > 0 {
		s += ":" + strings.Join(opts, ",")
	}
	return s
}
