// Package sandbox runs commands in throw-away sandboxes with volumes attached.
//
// A sandbox is a container of an OCI runtime (crun, runc or gVisor's runsc). Its root
// file system is a read-only view of the host's system directories, or a directory or
// image with a writable layer that is thrown away; data to keep goes to volumes.
//
//	func main() {
//		sandbox.Init() // becomes a helper when the program was started as one
//		...
//		m, err := sandbox.Open(ctx, home, store)
//		res, err := m.Run(ctx, sandbox.Config{
//			Args:   []string{"sh", "-c", "echo hello > /data/x"},
//			Mounts: []sandbox.Mount{{Volume: "data", Path: "/data"}},
//		}, sandbox.IO{Stdout: os.Stdout, Stderr: os.Stderr})
//
// # Life
//
// A sandbox is created, starting, running, possibly paused, then draining when it was
// asked to stop, and at last stopped; or crashed, when something of Vole or of the
// runtime died under it. The catalog of the home keeps the status, and the last
// hundred that ended.
//
// One process supervises a sandbox: the caller of [Manager.Run], or for
// [Manager.Start] a process of its own. It holds the volumes' attachments, and starts
// a helper that is process 1 of a new pid namespace, in a mount namespace of its own
// (and a user namespace, when the caller is not root). Everything of the sandbox
// happens in those: mounts, the runtime, the command. So when the supervisor, the
// helper or the runtime dies, at whatever instant, the kernel kills what ran, undoes
// the mounts and releases the attachments; only a scratch directory and control groups
// stay, which the next [Open] of the home removes, marking the sandbox crashed.
//
// A disk volume is mounted there too, through a loop device that goes with its last
// mount. It takes root.
//
// # What a sandbox can see
//
// Of the host, with the default root: /usr, /bin, /sbin, /lib*, /opt, /etc, /nix and
// /gnu, read-only, without setuid and devices. Under root they are mapped so that the
// sandbox, though it runs as user 0, may read in them what any user of the host may
// read, and no more (so not /etc/shadow or private keys). Where the file system
// cannot map owners, /etc is a copy of what all may read, and of the rest the well
// known secrets are hidden. For other users, the sandbox may read what they may,
// except the well known secrets. All else of the host is absent: homes, /root, /var,
// /run with its sockets, /tmp, /srv, /mnt, /sys, and the home of Vole with the other
// volumes, wherever it is. /tmp, /var/tmp, /run and /root are private and in memory.
//
// Setuid programs and file capabilities give nothing (no_new_privs), and most
// capabilities are gone. System calls are those that containers are commonly allowed,
// less those that only administrate the host (mounting, modules, keys, tracing of the
// kernel, new user namespaces, io_uring); any other is refused.
// Nothing reachable from a sandbox leads out of it: not process 1 of its pid namespace,
// whose mount namespace is empty, nor a path that an image or a volume gives, which is
// resolved here and not by the runtime. Device nodes on volumes cannot be opened, unless
// a mount says so.
//
// There is no network but loopback unless asked for; [NetworkHost] is the host's own,
// with the host's abstract unix sockets.
package sandbox
