package sandbox

import (
	"bytes"
	"cmp"
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

// checkCommand returns the reason why the command cannot be executed: it was not found, is
// no program, or needs an interpreter that does not exist. It returns nil when the command
// is fine, and when that cannot be decided here.
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
				list = append(list, cmp.Or(d, ".")+"/"+name)
			}
		}
	}
	return list
}

// absoluteFromCwd makes a relative path absolute. It keeps "..", because a link before it
// changes what ".." means.
func (p process) absoluteFromCwd(name string) string {
	if path.IsAbs(name) {
		return name
	}
	return p.cwd + "/" + name
}

// maxInterpreters is the longest chain of interpreters that the kernel follows, the command
// included: five scripts and a binary (exec_binprm in its fs/exec.c).
const maxInterpreters = 6

// checkProgram looks for a program at a path of the sandbox. wrong is the reason why it
// cannot be executed; nil: there is none, or that cannot be decided here.
func (h *helper) checkProgram(p string) (wrong *ExecError, found bool) {
	program, err := h.tree.resolvePath(p, lookup{})
	switch {
	case isMountedByRuntime(err):
		return &ExecError{ExitNotExecutable, fmt.Errorf("cannot be executed: it %w", err)}, true
	case isMissingPath(err):
		return nil, false
	case err != nil:
		return nil, true
	}
	defer func() { program.Close() }()
	if program.stat.Mode&unix.S_IFMT != unix.S_IFREG || program.stat.Mode&0o111 == 0 {
		return &ExecError{ExitNotExecutable, errors.New("cannot be executed in the sandbox")}, true
	}
	for range maxInterpreters {
		by := findInterpreter(program)
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
		program.Close()
		program = needed
	}
	return nil, true
}

// isMountedByRuntime reports whether a path leads into a mount that only the runtime makes.
// Those hold no programs, except files that processes have open.
func isMountedByRuntime(err error) bool {
	return errors.Is(err, errProcfs) || errors.Is(err, errUnseen)
}

func isMissingPath(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// findInterpreter returns the program that the kernel executes another one with: that of
// its "#!" line, or its dynamic linker; "": none, or the file cannot be understood.
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

// parseShebang returns the interpreter named behind "#!". As for the kernel, its name ends
// at a blank, a tab, a NUL or the end of the line, and at nothing else.
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

// readDynamicLinker returns the dynamic linker that an ELF file names; head is the file's
// beginning. It does not use the reader of package elf, which is not made for hostile files.
func readDynamicLinker(file io.ReaderAt, head []byte) string {
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
		if encoding.Read(io.NewSectionReader(file, at+i*size, size), order, segment) != nil {
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
			if _, err := file.ReadAt(b, int64(off)); err != nil {
				return ""
			}
			name, _, _ := strings.Cut(string(b), "\x00")
			return name
		}
	}
	return ""
}

// locateProgramHeaders returns the offset and number of an ELF file's program headers, and a
// variable to decode one of them into.
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
