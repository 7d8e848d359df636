package sandbox

import (
	"bytes"
	"debug/elf"
	encoding "encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// errUnseen says that what is at a path cannot be told from outside the sandbox.
var errUnseen = errors.New("cannot be seen from outside")

// checkCommand says why the command cannot be executed: it was not found, or is no
// program, or what the kernel would execute it with is not there. It returns nil when
// there is nothing wrong with it, and when that cannot be told.
func (h *helper) checkCommand() error {
	name := h.args[0]
	places := []string{name}
	if !strings.Contains(name, "/") {
		places = nil
		for _, e := range h.env {
			if list, ok := strings.CutPrefix(e, "PATH="); ok {
				for _, d := range filepath.SplitList(list) {
					places = append(places, path.Join(d, name))
				}
			}
		}
	}
	verdict := &ExecError{ExitNotFound, fmt.Errorf("%q: command not found in the sandbox", name)}
	for _, p := range places {
		if !path.IsAbs(p) {
			return nil
		}
		real, st, err := h.statGuest(p)
		switch {
		case isMissing(err):
			continue
		case err != nil:
			return nil
		case st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o111 == 0:
			verdict = &ExecError{ExitNotExecutable, fmt.Errorf("%q cannot be executed in the sandbox", name)}
			continue
		}
		by := h.interpreter(real)
		if _, _, err := h.statGuest(by); !path.IsAbs(by) || !isMissing(err) {
			return nil
		}
		verdict = &ExecError{ExitNotFound, fmt.Errorf("%q cannot be executed: %s, which it needs, was not found in the sandbox", name, by)}
	}
	return verdict
}

// mountGuest notes what the runtime will mount, which follows the links of the root.
func (h *helper) mountGuest(list []specs.Mount) {
	for _, m := range list {
		p := path.Clean(m.Destination)
		for dir, rest := p, ""; dir != "/"; dir, rest = path.Dir(dir), path.Join(path.Base(dir), rest) {
			if real, _, err := h.statGuest(dir); err == nil {
				p = path.Join(real, rest)
				break
			}
		}
		m.Destination = p
		h.guest = append(h.guest, m)
	}
}

func isMissing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// statGuest looks at a path as the command would see it. It follows links itself, since
// they may lead from one mount to another, and returns the path without them.
func (h *helper) statGuest(p string) (real string, st unix.Stat_t, err error) {
	at, links := "/", 0
	st.Mode = unix.S_IFDIR
	for rest := strings.Split(p, "/"); len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		if name == "" || name == "." {
			continue
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return "", st, unix.ENOTDIR
		}
		if name == ".." {
			at = path.Dir(at)
			continue
		}
		var target string
		if target, st, err = h.lookGuest(path.Join(at, name)); err != nil {
			return "", st, err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			at = path.Join(at, name)
			continue
		}
		if links++; links > 40 { // as many as the kernel follows
			return "", st, unix.ELOOP
		}
		if path.IsAbs(target) {
			at = "/"
		}
		st.Mode = unix.S_IFDIR
		rest = append(strings.Split(target, "/"), rest...)
	}
	return at, st, nil
}

// lookGuest looks at a path that has no links but perhaps at its end, where target is
// what it leads to.
func (h *helper) lookGuest(p string) (target string, st unix.Stat_t, err error) {
	f, err := h.openGuest(p, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) || err == errUnseen {
		for _, m := range h.guest { // the runtime makes what it mounts on
			if beneath(m.Destination, p) {
				st.Mode = unix.S_IFDIR
				return "", st, nil
			}
		}
	}
	if err != nil {
		return "", st, err
	}
	defer f.Close()
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", st, err
	}
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", b)
	if err != nil {
		return "", st, err
	}
	return string(b[:n]), st, nil
}

// openGuest opens a path of the sandbox that has no links.
func (h *helper) openGuest(p string, flags int) (*os.File, error) {
	root, rel := h.root, p
	for _, m := range h.guest { // the last that fits hides those before
		if !beneath(p, m.Destination) {
			continue
		}
		switch m.Type {
		case "bind":
			root, rel = m.Source, strings.TrimPrefix(p, m.Destination)
		case "tmpfs":
			if root, rel = "", ""; p != m.Destination {
				rel = p
			}
		default:
			root, rel = "", ""
		}
	}
	switch {
	case root != "" && rel == "":
		return os.OpenFile(root, flags|unix.O_NOFOLLOW, 0)
	case root != "":
		return inRoot(root, "./"+rel, flags|unix.O_NOFOLLOW)
	case rel != "" && !beneath(rel, "/dev"):
		return nil, unix.ENOENT // in memory that is empty yet
	}
	return nil, errUnseen
}

// interpreter returns what the kernel executes a program with: that of its first line
// or its dynamic linker; "" when there is none, or none that can be told.
func (h *helper) interpreter(p string) string {
	f, err := h.openGuest(p, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, 256) // all that the kernel reads
	n, _ := io.ReadFull(f, b)
	b = b[:n]
	if line, ok := bytes.CutPrefix(b, []byte("#!")); ok {
		line, _, ok = bytes.Cut(line, []byte("\n"))
		if fields := strings.Fields(string(line)); ok && len(fields) > 0 {
			return fields[0]
		}
		return ""
	}
	return dynamicLinker(f, b)
}

// dynamicLinker reads it from a program of 64 bits; head is its beginning. Package elf
// itself is not made for files that mean harm.
func dynamicLinker(f io.ReaderAt, head []byte) string {
	var order encoding.ByteOrder = encoding.LittleEndian
	if len(head) < elf.EI_NIDENT || string(head[:4]) != elf.ELFMAG || elf.Class(head[elf.EI_CLASS]) != elf.ELFCLASS64 {
		return ""
	}
	if elf.Data(head[elf.EI_DATA]) == elf.ELFDATA2MSB {
		order = encoding.BigEndian
	}
	var eh elf.Header64
	if encoding.Read(bytes.NewReader(head), order, &eh) != nil {
		return ""
	}
	for i := range int64(min(eh.Phnum, 64)) {
		var ph elf.Prog64
		size := int64(encoding.Size(ph))
		r := io.NewSectionReader(f, int64(eh.Phoff)+i*size, size)
		if encoding.Read(r, order, &ph) != nil {
			return ""
		}
		if elf.ProgType(ph.Type) == elf.PT_INTERP && ph.Filesz < unix.PathMax {
			b := make([]byte, ph.Filesz)
			if _, err := f.ReadAt(b, int64(ph.Off)); err != nil {
				return ""
			}
			return strings.TrimRight(string(b), "\x00")
		}
	}
	return ""
}
