package sandbox

import (
	"fmt"
	"maps"
	"slices"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
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
	// The arguments of this call of 32-bit programs lie in memory, with the family of a
	// socket. Not to allow it is not enough: libseccomp allows with socket(2) what it takes
	// for the same call of 32-bit programs, but for the conditions on its arguments.
	"socketcall",
}

// Numbers of Linux' include/uapi, the same on all architectures that are supported.
const (
	tioCSTI   = 0x5412 // types into a terminal
	tioCLINUX = 0x541C // console selection, which can paste into it
)

var deniedIoctls = []uint32{tioCSTI, tioCLINUX}

// seccompProfile allows what the container profile of the Moby project does, for the
// capabilities in s, less what is denied above. So a call that is in neither list, such
// as one that a newer kernel has and the runtime's libseccomp does not know, is refused.
// The same goes for sockets: of the kernel's cryptography (AF_ALG) and to the hypervisor
// (AF_VSOCK) there are none. Runtimes without seccomp (runsc, whose own kernel sees the
// calls) ignore the profile.
func seccompProfile(s *specs.Spec) (*specs.LinuxSeccomp, error) {
	profile, err := seccomp.GetDefaultProfile(s)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	// Programs that probe for a new call then do without it; many take no other error
	// for "not there". Of what is denied by name they expect that it is not permitted.
	missing, notPermitted := uint(unix.ENOSYS), uint(unix.EPERM)
	profile.DefaultAction, profile.DefaultErrnoRet = specs.ActErrno, &missing
	rules := []specs.LinuxSyscall{{Names: denied, Action: specs.ActErrno, ErrnoRet: &notPermitted}}
	for _, r := range profile.Syscalls {
		r.Names = slices.DeleteFunc(slices.Clone(r.Names), isRestrictedSyscall)
		if len(r.Names) > 0 && r.Action == specs.ActAllow {
			rules = append(rules, r)
		}
	}
	for _, arg := range listAllExcept(1, deniedIoctls) {
		rules = append(rules, specs.LinuxSyscall{Names: []string{"ioctl"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{arg}})
	}
	profile.Syscalls = rules
	// Nothing is built for x32, and each architecture costs milliseconds of every start.
	profile.Architectures = slices.DeleteFunc(profile.Architectures, func(a specs.Arch) bool { return a == specs.ArchX32 })
	return profile, nil
}

// isRestrictedSyscall reports whether the profile allows a call too widely. Of clone and socket,
// the profile itself allows only what makes no namespace and no socket of a family that
// reaches beyond a sandbox.
func isRestrictedSyscall(name string) bool {
	// The flags of clone3 lie in memory, where seccomp cannot see them; C libraries then use clone.
	return name == "ioctl" || name == "clone3" || slices.Contains(denied, name)
}

// listAllExcept returns conditions of which one holds, exactly for all other values of the lower
// half of an argument, which is all that the kernel looks at where it takes an int: a
// comparison of the whole could be evaded. Seccomp has no "and" of two conditions on an
// argument, so each condition matches the values that agree with some excluded ones in
// all bits above one, and with none of them in that bit.
func listAllExcept(index uint, excluded []uint32) []specs.LinuxSeccompArg {
	var out []specs.LinuxSeccompArg
	prefixes := map[uint32]bool{0: true} // of excluded values, in the bits above
	for bit := 31; bit >= 0; bit-- {
		mask := ^uint32(0) << bit
		next := map[uint32]bool{}
		for _, v := range excluded {
			next[v&mask] = true
		}
		for _, p := range slices.Sorted(maps.Keys(prefixes)) {
			for _, v := range []uint32{p, p | 1<<bit} {
				if !next[v] {
					out = append(out, specs.LinuxSeccompArg{Index: index, Value: uint64(mask), ValueTwo: uint64(v), Op: specs.OpMaskedEqual})
				}
			}
		}
		prefixes = next
	}
	return out
}
