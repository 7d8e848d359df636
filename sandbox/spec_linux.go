package sandbox

import (
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// plan is all that the helper has to know, sent by the supervisor. Everything in it
// was checked before.
type plan struct {
	ID, Name string
	Home     string // of Vole; hidden from the sandbox
	Scratch  string // a directory on disk that is thrown away afterwards
	Runtime  binary
	Rootless bool // not root on the host
	Ranges   bool // more than one user and group is mapped

	Rootfs, Image string
	ImageDigest   string      // chooses the image when Image is the cache
	ImageName     string      // of an image of a registry
	Mounts        []planMount // parents before children
	Disks         []planDisk

	Args       []string
	Entrypoint []string // replaces the image's when HasEntrypoint
	Env        []string
	Cwd        string
	User       string

	HasEntrypoint bool
	HostNetwork   bool
	Terminal      bool
	Limits        limits
	CgroupPath    string // for the runtime to make; "": no control groups
	Group         string // directory of one that Vole has made
}

// binary is a runtime on this host.
type binary struct {
	Name string // one of Runtimes, which tells its flags
	Path string
}

// planMount is one volume to mount.
type planMount struct {
	Mount
	Source string // directory on the host
	Disk   int    // instead of that: which of the plan's disks, from 1
}

// limits are what the runtime is to enforce; 0 is none.
type limits struct {
	Memory int64
	Pids   int64
	CPUs   float64
	NProc  uint64 // RLIMIT_NPROC, where there are no control groups
}

// process is the command, its environment and user, as resolved in the root file system.
type process struct {
	args, env []string
	cwd       string
	uid, gid  uint32
	groups    []uint32
}

// capabilities are what root of a sandbox keeps: to own files, change to other users
// and bind low ports; nothing that reaches beyond its namespaces.
var capabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
	"CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// maskedPaths of /proc tell of the host, readonlyPaths change it.
var (
	maskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/kmsg",
		"/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/proc/kallsyms", "/proc/kpagecount", "/proc/kpageflags", "/proc/kpagecgroup", "/proc/vmallocinfo",
	}
	readonlyPaths = []string{
		"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/proc/tty", "/proc/driver",
		"/proc/dynamic_debug", "/proc/lock_stat", "/proc/mtrr", "/proc/pressure", "/proc/profile",
	}

	// secretPaths are hidden from a sandbox on the host's root, even if it may read them.
	secretPaths = []string{
		"/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/security/opasswd", "/etc/sudoers",
		"/etc/sudoers.d", "/etc/ssh", "/etc/ssl/private", "/etc/pki/tls/private", "/etc/krb5.keytab", "/etc/letsencrypt",
		"/etc/wireguard", "/etc/openvpn", "/etc/kubernetes", "/etc/rancher", "/etc/docker", "/etc/ppp",
		"/etc/NetworkManager/system-connections", "/etc/machine-id", "/etc/crypttab", "/etc/fstab", "/etc/msmtprc",
		// No secret, but a way to a service of the host: sockets can be connected to on a
		// read-only mount, too.
		"/nix/var/nix/daemon-socket",
	}
)

// buildRuntimeSpec writes the configuration for the runtime. root is the directory to use, and
// pidNS the pid namespace to join ("" for a new one). mounts are those of the root that
// the runtime is to make again, as it does not take them with the root.
func buildRuntimeSpec(p *plan, proc process, root, pidNS string, mounts []treeMount) (*specs.Spec, error) {
	host := p.Rootfs == "" && p.Image == ""
	spec := &specs.Spec{
		Version:  "1.0.0", // the oldest that has all that is used, since old runtimes check it
		Hostname: guestHostname(p.Name),
		Root:     &specs.Root{Path: root, Readonly: host},
		Process: &specs.Process{
			Terminal:        p.Terminal,
			User:            specs.User{UID: proc.uid, GID: proc.gid, AdditionalGids: proc.groups},
			Args:            proc.args,
			Env:             proc.env,
			Cwd:             proc.cwd,
			NoNewPrivileges: true,
			Capabilities:    capabilitiesFor(proc.uid),
		},
		Mounts: planBaseMounts(p),
		Linux: &specs.Linux{
			Namespaces:    planNamespaces(p, pidNS),
			MaskedPaths:   maskedPaths,
			ReadonlyPaths: readonlyPaths,
			CgroupsPath:   p.groupForRuntime(),
			Resources:     planResources(p),
		},
	}
	for _, m := range mounts {
		spec.Mounts = append(spec.Mounts, m.runtimeMount())
	}
	if p.Limits.NProc > 0 {
		spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NPROC", Hard: p.Limits.NProc, Soft: p.Limits.NProc}}
	}
	var err error
	spec.Linux.Seccomp, err = seccompProfile(spec)
	return spec, err
}

// guestHostname makes a host name of a sandbox's name: labels have no '_'.
func guestHostname(name string) string { return strings.ReplaceAll(name, "_", "-") }

func capabilitiesFor(uid uint32) *specs.LinuxCapabilities {
	if uid != 0 {
		// Kept in the bounding set only, which with no_new_privs gives nothing.
		return &specs.LinuxCapabilities{}
	}
	return &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities}
}

func planNamespaces(p *plan, pidNS string) []specs.LinuxNamespace {
	list := []specs.LinuxNamespace{
		{Type: specs.PIDNamespace, Path: pidNS}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
	}
	if p.CgroupPath != "" {
		list = append(list, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	if !p.HostNetwork {
		list = append(list, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	}
	return list
}

// planBaseMounts are what only the runtime can mount: procfs is of its pid namespace, and
// /dev holds the devices that it gives to every container.
func planBaseMounts(p *plan) []specs.Mount {
	pts := []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}
	if !p.Rootless || p.Ranges {
		pts = append(pts, "gid=5")
	}
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=64k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: pts},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=64m"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
	}
}

// cpuPeriod is over how many microseconds processor time is counted: the kernel's default.
const cpuPeriod = 100_000

// groupForRuntime is the control group that the runtime is told of. Without root, runc makes
// one of its own in what is delegated unless it is told where; crun and runsc make none.
func (p *plan) groupForRuntime() string {
	if p.Group != "" && p.Runtime.Name == "runc" {
		return strings.TrimPrefix(p.Group, cgroupRoot)
	}
	return p.CgroupPath
}

// planResources converts limits into those of the OCI runtime specification.
func planResources(p *plan) *specs.LinuxResources {
	if p.CgroupPath == "" {
		return nil
	}
	r := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	if n := p.Limits.Memory; n > 0 {
		r.Memory = &specs.LinuxMemory{Limit: &n}
	}
	if n := p.Limits.Pids; n > 0 {
		r.Pids = &specs.LinuxPids{Limit: &n}
	}
	if p.Limits.CPUs > 0 {
		period := uint64(cpuPeriod)
		quota := int64(p.Limits.CPUs * float64(period))
		r.CPU = &specs.LinuxCPU{Period: &period, Quota: &quota}
	}
	return r
}

// defaultEnvironment is the environment of a command where neither the image nor the caller
// sets a variable.
func defaultEnvironment(p *plan, home string) []string {
	env := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + home,
		"HOSTNAME=" + guestHostname(p.Name),
		"VOLE_SANDBOX=" + p.Name,
	}
	if p.Terminal {
		env = append(env, "TERM=xterm")
	}
	return env
}

// mergeEnvironment puts later lists over earlier ones; the last value of a key counts.
func mergeEnvironment(lists ...[]string) []string {
	at := map[string]int{}
	var out []string
	for _, list := range lists {
		for _, e := range list {
			k, _, _ := strings.Cut(e, "=")
			if i, ok := at[k]; ok {
				out[i] = e
				continue
			}
			at[k] = len(out)
			out = append(out, e)
		}
	}
	return out
}

// parseID32 parses a user or group id.
func parseID32(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 31)
	return uint32(n), err == nil
}
