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
	verdict := &ExecError{ExitNotFound, fmt.Errorf("%q: command not found in the sandbox", name)}
	for _, p := range h.proc.candidatePaths() {
		v, found := h.checkProgram(h.proc.absoluteFromCwd(p))
		switch {
		case found && v == nil:
			return nil
		case found:
			verdict = &ExecError{v.ExitCode, fmt.Errorf("%q %w", name, v.Err)}
		}
	}
	return verdict
}

// candidatePaths are the paths at which the command may be, in the order of the search.
func (p process) candidatePaths() []string {
	name := p.args[0]
	if strings.Contains(name, "/") {
		return []string{name}
	}
	var list []string
	for _, e := range p.env {
		if dirs, ok := strings.CutPrefix(e, "PATH="); ok {
			for _, d := range filepath.SplitList(dirs) {
				// Not cleaned: ".." behind a link means something else.
				list = append(list, firstNonEmpty(d, ".")+"/"+name)
			}
		}
	}
	return list
}

// absoluteFromCwd is the path that a relative one stands for. It keeps "..", which a link before
// it would turn elsewhere.
func (p process) absoluteFromCwd(name string) string {
	if path.IsAbs(name) {
		return name
	}
	return p.cwd + "/" + name
}

// maxInterpreters is how many programs the kernel executes one another with, the first
// included: five scripts and a binary. It refuses more.
const maxInterpreters = 6

// checkProgram says what is wrong with the program at a path of the sandbox, if it is
// found there; nil when that is nothing, or cannot be told.
func (h *helper) checkProgram(p string) (wrong *ExecError, found bool) {
	f, err := h.tree.resolvePath(p, lookup{})
	switch {
	case isMountedByRuntime(err):
		return &ExecError{ExitNotExecutable, fmt.Errorf("cannot be executed: it %w", err)}, true
	case isMissingPath(err):
		return nil, false
	case err != nil:
		return nil, true
	}
	defer func() { f.Close() }()
	if f.stat.Mode&unix.S_IFMT != unix.S_IFREG || f.stat.Mode&0o111 == 0 {
		return &ExecError{ExitNotExecutable, errors.New("cannot be executed in the sandbox")}, true
	}
	for range maxInterpreters {
		by := findInterpreter(f)
		if by == "" {
			break
		}
		needed, err := h.tree.resolvePath(h.proc.absoluteFromCwd(by), lookup{})
		switch {
		case isMountedByRuntime(err):
			return &ExecError{ExitNotExecutable, fmt.Errorf("cannot be executed: %s, which it needs, %w", by, err)}, true
		case isMissingPath(err):
			return &ExecError{ExitNotFound, fmt.Errorf("cannot be executed: %s, which it needs, was not found in the sandbox", by)}, true
		case err != nil:
			return nil, true
		}
		f.Close()
		f = needed
	}
	return nil, true
}

// isMountedByRuntime reports whether a path leads to what only the runtime mounts, where there
// are no programs but those that processes have open.
func isMountedByRuntime(err error) bool {
	return errors.Is(err, errProcfs) || errors.Is(err, errUnseen)
}

func isMissingPath(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// findInterpreter returns what the kernel executes a program with: that of its first line
// or its dynamic linker; "" when there is none, or none that can be told.
func findInterpreter(program guestFile) string {
	if program.stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return ""
	}
	f, err := os.OpenFile(program.handlePath(), unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, 256) // all that the kernel reads; zero behind a short file's end
	n, _ := io.ReadFull(f, b)
	if line, ok := bytes.CutPrefix(b, []byte("#!")); ok {
		return parseShebang(line)
	}
	return readDynamicLinker(f, b[:n])
}

// parseShebang reads it from what follows "#!", as the kernel does: a name ends at
// a blank, a tab, a NUL or the line's end, and at nothing else.
func parseShebang(line []byte) string {
	line, _, complete := bytes.Cut(line, []byte("\n"))
	line = bytes.TrimLeft(line, " \t")
	if end := bytes.IndexAny(line, " \t\x00"); end >= 0 {
		return string(line[:end])
	}
	if !complete {
		return "" // cut off, which the kernel does not execute
	}
	return string(line)
}

// readDynamicLinker reads it from a program; head is its beginning. Package elf itself is not
// made for files that mean harm.
func readDynamicLinker(f io.ReaderAt, head []byte) string {
	var order encoding.ByteOrder = encoding.LittleEndian
	if len(head) < elf.EI_NIDENT || string(head[:4]) != elf.ELFMAG {
		return ""
	}
	if elf.Data(head[elf.EI_DATA]) == elf.ELFDATA2MSB {
		order = encoding.BigEndian
	}
	at, count, segment := locateProgramHeaders(head, order)
	for i := range int64(min(count, 64)) {
		size := int64(encoding.Size(segment))
		if encoding.Read(io.NewSectionReader(f, at+i*size, size), order, segment) != nil {
			return ""
		}
		var kind uint32
		var off, n uint64
		switch s := segment.(type) {
		case *elf.Prog64:
			kind, off, n = s.Type, s.Off, s.Filesz
		case *elf.Prog32:
			kind, off, n = s.Type, uint64(s.Off), uint64(s.Filesz)
		}
		if elf.ProgType(kind) == elf.PT_INTERP && n < unix.PathMax {
			b := make([]byte, n)
			if _, err := f.ReadAt(b, int64(off)); err != nil {
				return ""
			}
			name, _, _ := strings.Cut(string(b), "\x00")
			return name
		}
	}
	return ""
}

// locateProgramHeaders tells where a program has its program headers, how many, and gives
// something to read one of them into.
func locateProgramHeaders(head []byte, order encoding.ByteOrder) (at int64, count uint16, segment any) {
	switch elf.Class(head[elf.EI_CLASS]) {
	case elf.ELFCLASS64:
		var h elf.Header64
		if encoding.Read(bytes.NewReader(head), order, &h) == nil {
			return int64(h.Phoff), h.Phnum, new(elf.Prog64)
		}
	case elf.ELFCLASS32:
		var h elf.Header32
		if encoding.Read(bytes.NewReader(head), order, &h) == nil {
			return int64(h.Phoff), h.Phnum, new(elf.Prog32)
		}
	}
	return 0, 0, nil
}
