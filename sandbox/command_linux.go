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

	"golang.org/x/sys/unix"
)

// checkCommand says why the command cannot be executed: it was not found, or is no
// program, or what the kernel would execute it with is not there. It returns nil when
// there is nothing wrong with it, and when that cannot be told.
func (h *helper) checkCommand() error {
	name := h.proc.args[0]
	places := []string{name}
	if !path.IsAbs(name) {
		places[0] = h.proc.cwd + "/" + name
	}
	if !strings.Contains(name, "/") {
		places = nil
		for _, e := range h.proc.env {
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
		v, found := h.checkProgram(p)
		switch {
		case found && v == nil:
			return nil
		case found:
			verdict = &ExecError{v.ExitCode, fmt.Errorf("%q %w", name, v.Err)}
		}
	}
	return verdict
}

// checkProgram says what is wrong with the program at a path of the sandbox, if it is
// found there; nil when that is nothing, or cannot be told.
func (h *helper) checkProgram(p string) (wrong *ExecError, found bool) {
	f, err := h.tree.resolve(p, lookup{})
	switch {
	case isOfRuntime(err):
		return &ExecError{ExitNotExecutable, fmt.Errorf("cannot be executed: it %w", err)}, true
	case isMissing(err):
		return nil, false
	case err != nil:
		return nil, true
	}
	defer f.Close()
	if f.stat.Mode&unix.S_IFMT != unix.S_IFREG || f.stat.Mode&0o111 == 0 {
		return &ExecError{ExitNotExecutable, errors.New("cannot be executed in the sandbox")}, true
	}
	by := interpreter(f)
	if !path.IsAbs(by) {
		return nil, true
	}
	needed, err := h.tree.resolve(by, lookup{})
	if err == nil {
		needed.Close()
	}
	switch {
	case isOfRuntime(err):
		return &ExecError{ExitNotExecutable, fmt.Errorf("cannot be executed: %s, which it needs, %w", by, err)}, true
	case isMissing(err):
		return &ExecError{ExitNotFound, fmt.Errorf("cannot be executed: %s, which it needs, was not found in the sandbox", by)}, true
	}
	return nil, true
}

// isOfRuntime reports whether a path leads to what only the runtime mounts, where there
// are no programs but those that processes have open.
func isOfRuntime(err error) bool { return errors.Is(err, errProcfs) || errors.Is(err, errUnseen) }

func isMissing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// interpreter returns what the kernel executes a program with: that of its first line
// or its dynamic linker; "" when there is none, or none that can be told.
func interpreter(program guestFile) string {
	f, err := os.OpenFile(program.byHandle(), unix.O_RDONLY|unix.O_NONBLOCK, 0)
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
