package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/volehq/vole"
)

// guestInit is process 1 of the guest. It fills the volume until it is killed, and says
// what is safe. Files that are 50 behind go, so that there is something to free.
const guestInit = `#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
for m in $(cat /modules); do insmod /$m; done
i=0
until test -b /dev/vda || test $i -gt 100; do sleep 0.1; i=$((i+1)); done
mount -t ext4 /dev/vda /mnt || echo MOUNT FAILED
cat /mnt/greeting
i=0
while :; do
	mkdir -p /mnt/load/$((i%10))
	seq $((i*31%5000)) >/mnt/load/$((i%10))/new
	mv /mnt/load/$((i%10))/new /mnt/load/$((i%10))/f$i
	rm -f /mnt/load/*/f$((i-50))
	if test $((i%10)) = 9; then sync; echo SYNCED $i; fi
	i=$((i+1))
done
`

// TestMicroVM boots Linux under QEMU, in software, with a volume as its disk, kills QEMU
// while the guest writes, and looks at what is left. VOLE_MICROVM names a directory with
// a kernel package unpacked in it: 'make torture' makes it.
func TestMicroVM(t *testing.T) {
	dir := os.Getenv("VOLE_MICROVM")
	if dir == "" {
		t.Skip("VOLE_MICROVM is not set; make torture sets it")
	}
	kernels, _ := filepath.Glob(filepath.Join(dir, "boot/vmlinuz-*"))
	if len(kernels) == 0 {
		t.Fatalf("no kernel in %s", dir)
	}
	work := t.TempDir()
	initrd := filepath.Join(work, "initrd")
	if err := os.WriteFile(initrd, makeInitrd(t, dir), 0o600); err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(work, "home")
	s, err := vole.Open(t.Context(), vole.Options{Home: home})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	v, err := s.Create(t.Context(), "vm", vole.Spec{Kind: vole.KindDisk, Capacity: 256 * vole.MiB})
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		writeGreeting(t, v, round)
		synced := runGuest(t, home, kernels[0], initrd, fmt.Sprintf("hello %d", round), 60+100*round)
		checkGuest(t, v, synced)
		out := filepath.Join(work, "exported")
		if b, err := voleCmd(t, home, "disk", "export", "vm", out).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, b)
		}
		if b, err := exec.Command("e2fsck", "-fn", out).CombinedOutput(); err != nil {
			t.Errorf("round %d: e2fsck: %v\n%s", round, err, b)
		}
	}
	err = s.Check(t.Context(), vole.CheckOptions{}, func(f vole.Finding) error { t.Errorf("%+v", f); return nil })
	if err != nil {
		t.Error(err)
	}
}

func writeGreeting(t *testing.T, v *vole.Volume, round int) {
	t.Helper()
	f, err := v.FS(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.RemoveAll(t.Context(), "load"); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteFile(t.Context(), "greeting", fmt.Appendf(nil, "hello %d\n", round), 0o644); err != nil {
		t.Fatal(err)
	}
}

// runGuest boots the guest, kills QEMU after it has synced so many files, and returns how
// many those were.
func runGuest(t *testing.T, home, kernel, initrd, greeting string, files int) (synced int) {
	t.Helper()
	pid := filepath.Join(filepath.Dir(home), "pid")
	cmd := voleCmd(t, home, "attach", "vm", "--", "sh", "-c", "echo $$ >"+pid+`; exec qemu-system-x86_64 -accel tcg -m 256 -nodefaults -no-reboot \
		-display none -monitor none -serial stdio -kernel `+kernel+` -initrd `+initrd+` \
		-append 'console=ttyS0 quiet panic=-1' -drive file="$VOLE_PATH",format=raw,if=virtio,discard=unmap`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	limit := time.AfterFunc(4*time.Minute, func() { cmd.Process.Kill() })
	defer limit.Stop()
	greeted := false
	var said bytes.Buffer
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		said.WriteString(line + "\n")
		greeted = greeted || strings.HasSuffix(line, greeting)
		if n, ok := strings.CutPrefix(line, "SYNCED "); ok {
			synced, _ = strconv.Atoi(n)
		}
		if synced >= files && limit.Stop() {
			killFile(t, pid)
		}
	}
	err = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 128+int(syscall.SIGKILL) || !greeted || synced < files {
		t.Fatalf("exit code %d (%v), %d files synced; the guest said:\n%s", code, err, synced, said.Bytes())
	}
	return synced
}

// killFile kills the process whose id is in a file.
func killFile(t *testing.T, name string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err == nil {
		err = syscall.Kill(n, syscall.SIGKILL)
	}
	if err != nil {
		t.Error(err)
	}
}

// checkGuest checks that what the guest had synced is there, and whole.
func checkGuest(t *testing.T, v *vole.Volume, synced int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	f, err := v.OpenFS(ctx, vole.FSOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := synced - 38; i <= synced; i++ { // older ones may be gone
		var want bytes.Buffer
		for n := 1; n <= i*31%5000; n++ {
			fmt.Fprintln(&want, n)
		}
		got, err := f.ReadFile(ctx, fmt.Sprintf("load/%d/f%d", i%10, i))
		if err != nil || !bytes.Equal(got, want.Bytes()) {
			t.Errorf("file %d of %d: %d bytes, want %d, %v", i, synced, len(got), want.Len(), err)
		}
	}
}

// makeInitrd makes an initial file system of busybox and the modules that the guest
// needs: a cpio archive, see https://docs.kernel.org/driver-api/early-userspace/buffer-format.html.
func makeInitrd(t *testing.T, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	ino := 0
	add := func(name string, mode uint32, data []byte) {
		ino++
		fmt.Fprintf(&b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
			ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
		b.Write(make([]byte, -b.Len()&3))
		b.Write(data)
		b.Write(make([]byte, -b.Len()&3))
	}
	for _, d := range []string{"bin", "dev", "mnt"} {
		add(d, syscall.S_IFDIR|0o755, nil)
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	add("bin/busybox", syscall.S_IFREG|0o755, busybox)
	add("init", syscall.S_IFREG|0o755, []byte(guestInit))
	var order []string
	loadModules(t, dir, []string{"virtio_pci", "virtio_blk", "crc32c_generic", "ext4"}, map[string]bool{}, func(name string, data []byte) {
		order = append(order, name)
		add(name, syscall.S_IFREG|0o644, data)
	})
	add("modules", syscall.S_IFREG|0o644, []byte(strings.Join(order, "\n")+"\n"))
	add("TRAILER!!!", 0, nil)
	return b.Bytes()
}

// loadModules calls add for each of the named modules after those that it depends on.
// One that is not there is part of the kernel.
func loadModules(t *testing.T, dir string, names []string, seen map[string]bool, add func(name string, data []byte)) {
	t.Helper()
	for _, name := range names {
		if name == "" || seen[name] {
			continue
		}
		seen[name] = true
		data := readModule(t, dir, name)
		if data == nil {
			continue
		}
		_, deps, _ := bytes.Cut(data, []byte("\x00depends="))
		deps, _, _ = bytes.Cut(deps, []byte{0})
		loadModules(t, dir, strings.Split(string(deps), ","), seen, add)
		add(name+".ko", data)
	}
}

func readModule(t *testing.T, dir, name string) (data []byte) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		file := strings.ReplaceAll(filepath.Base(p), "-", "_")
		switch {
		case err != nil:
			return err
		case file == name+".ko":
			data, err = os.ReadFile(p)
		case file == name+".ko.xz":
			data, err = exec.Command("xz", "-dc", p).Output()
		default:
			return nil
		}
		if err == nil {
			err = fs.SkipAll
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}
