package sandbox

import (
	"bytes"
	"debug/elf"
	encoding "encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

const sysModifyLDT = unix.SYS_MODIFY_LDT

// socketcallProgram makes a program of 32 bits that ends with what
// socketcall(SYS_SOCKET, {family, SOCK_STREAM, 0}) returns, a file or the negative error,
// or, for the family 0, with 7.
func socketcallProgram(t *testing.T, family uint32) []byte {
	t.Helper()
	const base, sizes = 0x08048000, 52 + 32 // of the two headers
	var code bytes.Buffer
	if family == 0 {
		code.Write([]byte{0xbb, 7, 0, 0, 0}) // mov ebx, 7
	} else {
		code.Write([]byte{0x6a, 0, 0x6a, unix.SOCK_STREAM, 0x6a, byte(family)}) // push the arguments
		code.Write([]byte{0x89, 0xe1, 0xbb, 1, 0, 0, 0})                        // mov ecx, esp; mov ebx, SYS_SOCKET
		code.Write([]byte{0xb8, 102, 0, 0, 0, 0xcd, 0x80})                      // mov eax, socketcall; int 0x80
		code.Write([]byte{0x89, 0xc3})                                          // mov ebx, eax
	}
	code.Write([]byte{0xb8, 1, 0, 0, 0, 0xcd, 0x80}) // mov eax, exit; int 0x80
	size := uint32(sizes + code.Len())
	var out bytes.Buffer
	for _, part := range []any{
		elf.Header32{
			Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS32), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
			Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_386), Version: uint32(elf.EV_CURRENT), Entry: base + sizes,
			Phoff: 52, Ehsize: 52, Phentsize: 32, Phnum: 1,
		},
		elf.Prog32{Type: uint32(elf.PT_LOAD), Vaddr: base, Paddr: base, Filesz: size, Memsz: size, Flags: uint32(elf.PF_R | elf.PF_X), Align: 4096},
		code.Bytes(),
	} {
		if err := encoding.Write(&out, encoding.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

// A 32-bit program opens no socket past the conditions on the family.
func TestSeccompSocketcall(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e *env, runtime string) {
		if runtime == "runsc" {
			t.Skip("it has no seccomp: the calls are its own kernel's")
		}
		e.runShell("true", "v:/v")
		for _, family := range []uint32{0, afVSOCK, afALG, unix.AF_UNIX} {
			name := fmt.Sprintf("socket%d", family)
			if err := os.WriteFile(filepath.Join(e.volumePath("v"), name), socketcallProgram(t, family), 0o755); err != nil {
				t.Fatal(err)
			}
			c := shellConfig(t, "", "v:/v")
			c.Args, c.Runtime = []string{"/v/" + name}, runtime
			o, err := e.run(c, "")
			switch {
			case family == 0 && (err != nil || o.ExitCode != 7):
				t.Skipf("no programs of 32 bits here: %v", err)
			case family != 0 && (err != nil || o.ExitCode != 256-int(unix.EPERM)):
				t.Errorf("socketcall with family %d: %+v, %v", family, o, err)
			}
		}
	})
}
