package sandbox

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// newNamespaces are the flags of clone(2) that make a namespace.
var newNamespaces = []uint64{
	0x00020000 /* NEWNS */, 0x02000000 /* NEWCGROUP */, 0x04000000 /* NEWUTS */, 0x08000000, /* NEWIPC */
	0x10000000 /* NEWUSER */, 0x20000000 /* NEWPID */, 0x40000000, /* NEWNET */
}

// seccompVerdict does what seccomp does with a call.
func seccompVerdict(t *testing.T, p *specs.LinuxSeccomp, name string, args ...uint64) specs.LinuxSeccompAction {
	t.Helper()
	args = append(args, make([]uint64, 6)...)
	action := p.DefaultAction // of a program of an architecture that is listed
	for _, r := range p.Syscalls {
		if !slices.Contains(r.Names, name) {
			continue
		}
		match := true
		for _, a := range r.Args {
			v := args[a.Index]
			switch a.Op {
			case specs.OpEqualTo:
				match = match && v == a.Value
			case specs.OpLessThan:
				match = match && v < a.Value
			case specs.OpMaskedEqual:
				match = match && v&a.Value == a.ValueTwo
			default:
				t.Fatalf("%s: operator %s", name, a.Op)
			}
		}
		if match {
			action = r.Action
		}
	}
	return action
}

func testProfile(t *testing.T, uid uint32) *specs.LinuxSeccomp {
	t.Helper()
	p, err := seccompProfile(&specs.Spec{Process: &specs.Process{Capabilities: capabilitiesFor(uid)}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSeccompProfile(t *testing.T) {
	for _, uid := range []uint32{0, 1000} {
		p := testProfile(t, uid)
		if p.DefaultAction != specs.ActErrno {
			t.Fatalf("what is not listed: %s", p.DefaultAction)
		}
		refused := append([]string{"clone3", "socketcall", "a_call_of_a_newer_kernel", "mount", "modify_ldt", "adjtimex", "clock_adjtime", "clock_adjtime64", "kcmp"}, denied...)
		for _, name := range refused {
			if seccompVerdict(t, p, name) == specs.ActAllow {
				t.Errorf("user %d: %s is allowed", uid, name)
			}
		}
		for _, name := range []string{"read", "openat", "openat2", "ptrace", "execve", "futex", "statx", "process_vm_readv", "clone", "ioctl", "rseq", "seccomp", "mknodat"} {
			if seccompVerdict(t, p, name) != specs.ActAllow {
				t.Errorf("user %d: %s is refused", uid, name)
			}
		}
		for _, f := range newNamespaces {
			if seccompVerdict(t, p, "clone", f|uint64(unix.SIGCHLD)) == specs.ActAllow {
				t.Errorf("clone with %#x is allowed", f)
			}
		}
		for _, high := range []uint64{0, 1 << 32, 0xffffffff << 32} {
			for _, family := range []uint64{afALG, afVSOCK} {
				if seccompVerdict(t, p, "socket", high|family) == specs.ActAllow {
					t.Errorf("socket %#x is allowed", high|family)
				}
			}
		}
		for _, family := range []uint64{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK} {
			if seccompVerdict(t, p, "socket", family) != specs.ActAllow {
				t.Errorf("socket %d is refused", family)
			}
		}
	}
}

// Two requests of ioctl are refused, and no others, whatever the half of the argument
// holds that the kernel does not look at.
func TestSeccompIoctl(t *testing.T) {
	p := testProfile(t, 0)
	try := []uint32{0, 1, 1<<32 - 1, 1 << 31, 0x5401, unix.TIOCGWINSZ, tioCSTI &^ 0x80, tioCLINUX ^ 1<<31}
	for i := range uint32(64) {
		try = append(try, 0x5400+i)
	}
	for range 1000 {
		try = append(try, rand.Uint32())
	}
	for _, request := range try {
		want := !slices.Contains(deniedIoctls, request)
		for _, high := range []uint64{0, 1 << 32, 1 << 63} {
			if got := seccompVerdict(t, p, "ioctl", 0, high|uint64(request)); (got == specs.ActAllow) != want {
				t.Errorf("request %#x: %s", high|uint64(request), got)
			}
		}
	}
	if n := len(listAllExcept(1, deniedIoctls)); n > 64 {
		t.Errorf("%d conditions", n)
	}
}

const (
	afALG   = 38 // sockets of the kernel's cryptography
	afVSOCK = 40 // sockets to the hypervisor
)

// syscallsEnv makes the test binary, in a sandbox, try system calls.
const syscallsEnv = "VOLE_TEST_SYSCALLS"

// triedCalls do not need rights, so that it is seccomp which refuses them.
var triedCalls = []struct {
	name    string
	call    [4]uintptr
	allowed bool
}{
	{"modify_ldt", [4]uintptr{sysModifyLDT, 0, 0, 0}, false},
	{"adjtimex", [4]uintptr{unix.SYS_ADJTIMEX, zeroPage}, false},
	{"clock_adjtime", [4]uintptr{unix.SYS_CLOCK_ADJTIME, 0, zeroPage}, false},
	{"ioctl TIOCSTI", [4]uintptr{unix.SYS_IOCTL, 0, tioCSTI}, false},
	{"ioctl TIOCSTI, high bits", [4]uintptr{unix.SYS_IOCTL, 0, 1<<32 | tioCSTI}, false},
	{"ioctl TIOCLINUX", [4]uintptr{unix.SYS_IOCTL, 0, tioCLINUX}, false},
	{"ioctl TCGETS", [4]uintptr{unix.SYS_IOCTL, 0, unix.TCGETS, zeroPage}, true},
	{"socket AF_ALG", [4]uintptr{unix.SYS_SOCKET, afALG, unix.SOCK_SEQPACKET, 0}, false},
	{"socket AF_ALG, high bits", [4]uintptr{unix.SYS_SOCKET, 1<<32 | afALG, unix.SOCK_SEQPACKET, 0}, false},
	{"socket AF_VSOCK", [4]uintptr{unix.SYS_SOCKET, afVSOCK, unix.SOCK_STREAM, 0}, false},
	{"socket AF_UNIX", [4]uintptr{unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM, 0}, true},
	{"unshare", [4]uintptr{unix.SYS_UNSHARE, unix.CLONE_NEWUSER}, false},
	{"io_uring_setup", [4]uintptr{unix.SYS_IO_URING_SETUP, 1, 0}, false},
	{"keyctl", [4]uintptr{unix.SYS_KEYCTL, 0, 0}, false},
	{"an unknown call", [4]uintptr{sysUnknown}, false},
	{"getpid", [4]uintptr{unix.SYS_GETPID}, true},
	// Of a process that it does not trace: one that asked to be traced would stop at its next
	// signal, for ever.
	{"ptrace", [4]uintptr{unix.SYS_PTRACE, unix.PTRACE_CONT, 1}, true},
}

const (
	zeroPage   = 1    // an address that nothing is mapped at
	sysUnknown = 1000 // on no architecture yet
)

func trySyscalls() {
	for _, c := range triedCalls {
		_, _, errno := unix.RawSyscall(c.call[0], c.call[1], c.call[2], c.call[3])
		fmt.Printf("%s: %v\n", c.name, errno != unix.EPERM && errno != unix.ENOSYS)
	}
}

// The profile does in a sandbox what it says.
func TestSeccompInSandbox(t *testing.T) {
	eachRuntime(t, checkSeccomp)
}

func checkSeccomp(t *testing.T, e *env, runtime string) {
	t.Helper()
	if runtime == "runsc" {
		t.Skip("it has no seccomp: the calls are its own kernel's")
	}
	e.runShell("true", "v:/v")
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(e.volumePath("v"), "test"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	c := shellConfig(t, "", "v:/v")
	c.Args, c.Env, c.Runtime = []string{"/v/test"}, []string{syscallsEnv + "=1"}, runtime
	o, err := e.run(c, "")
	if err != nil || o.ExitCode != 0 {
		t.Fatalf("%+v, %v", o, err)
	}
	var want strings.Builder
	for _, c := range triedCalls {
		fmt.Fprintf(&want, "%s: %v\n", c.name, c.allowed)
	}
	if o.out != want.String() {
		t.Errorf("allowed:\n%s\nwant:\n%s", o.out, want.String())
	}
}
