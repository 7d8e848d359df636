package sandbox

import (
	"runtime"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// denied are the system calls that a sandbox has no use for: they administrate the
// host, or open up parts of the kernel that are attacked most. What they would need
// beside is missing too (capabilities, namespaces), so this is a second wall.
var denied = []string{
	// Mounts and namespaces.
	"mount", "umount", "umount2", "pivot_root", "move_mount", "open_tree", "open_tree_attr", "fsopen", "fsconfig",
	"fsmount", "fspick", "mount_setattr", "setns", "unshare",
	// The kernel itself.
	"init_module", "finit_module", "delete_module", "create_module", "query_module", "get_kernel_syms", "kexec_load",
	"kexec_file_load", "reboot", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd", "nfsservctl", "sysfs", "_sysctl",
	"syslog", "vhangup", "iopl", "ioperm", "modify_ldt", "uselib", "ustat", "lookup_dcookie", "vm86", "vm86old",
	"settimeofday", "clock_settime", "clock_settime64", "stime", "clock_adjtime", "clock_adjtime64", "adjtimex",
	"sethostname", "setdomainname",
	// Keys, tracing, and interfaces with a record of holes.
	"add_key", "request_key", "keyctl", "bpf", "perf_event_open", "userfaultfd", "fanotify_init", "io_uring_setup",
	"io_uring_enter", "io_uring_register", "open_by_handle_at", "kcmp",
	"move_pages", "migrate_pages", "pidfd_getfd",
}

// Numbers of Linux' include/uapi, the same on all architectures that are supported.
const (
	ePERM  = 1
	eNOSYS = 38

	afALG   = 38 // sockets of the kernel's cryptography
	afVSOCK = 40 // sockets to the hypervisor

	tioCSTI   = 0x5412 // types into a terminal
	tioCLINUX = 0x541C // console selection, which can paste into it
)

// newNamespaces are the flags of clone(2) that make a namespace.
var newNamespaces = []uint64{
	0x00020000 /* NEWNS */, 0x02000000 /* NEWCGROUP */, 0x04000000 /* NEWUTS */, 0x08000000, /* NEWIPC */
	0x10000000 /* NEWUSER */, 0x20000000 /* NEWPID */, 0x40000000, /* NEWNET */
}

// seccompProfile allows all system calls but those above. Runtimes without seccomp
// (runsc, whose own kernel sees the calls) ignore it.
func seccompProfile(*specs.Spec) (*specs.LinuxSeccomp, error) {
	errno := func(n uint) *uint { return &n }
	deny := func(e uint, names []string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: names, Action: specs.ActErrno, ErrnoRet: errno(e), Args: args}
	}
	s := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: architectures()}
	s.Syscalls = append(s.Syscalls,
		deny(ePERM, denied),
		// Its flags lie in memory, where seccomp cannot see them; C libraries then
		// use clone.
		deny(eNOSYS, []string{"clone3"}),
	)
	for _, f := range newNamespaces {
		s.Syscalls = append(s.Syscalls, deny(ePERM, []string{"clone"},
			specs.LinuxSeccompArg{Index: 0, Value: f, ValueTwo: f, Op: specs.OpMaskedEqual}))
	}
	for _, af := range []uint64{afALG, afVSOCK} {
		s.Syscalls = append(s.Syscalls, deny(ePERM, []string{"socket"},
			specs.LinuxSeccompArg{Index: 0, Value: 0xffffffff, ValueTwo: af, Op: specs.OpMaskedEqual}))
	}
	for _, req := range []uint64{tioCSTI, tioCLINUX} {
		s.Syscalls = append(s.Syscalls, deny(ePERM, []string{"ioctl"},
			specs.LinuxSeccompArg{Index: 1, Value: 0xffffffff, ValueTwo: req, Op: specs.OpMaskedEqual}))
	}
	return s, nil
}

// architectures lists the calling conventions of this machine: a call by another one
// ends the process.
func architectures() []specs.Arch {
	switch runtime.GOARCH {
	case "amd64":
		return []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
	case "arm64":
		return []specs.Arch{specs.ArchAARCH64, specs.ArchARM}
	}
	return nil
}
