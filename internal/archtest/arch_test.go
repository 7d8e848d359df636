// Package archtest holds the tests of the architecture: which package may link which,
// and what the shipped binary must not contain. ARCHITECTURE.md draws what is here.
package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/volehq/vole"

// systems are those that the binary is built for.
var systems = []string{"linux", "darwin", "windows"}

// rule says what a package and those beneath it may link of this module, directly or
// through others. "." is the SDK. Every package matches the first rule that fits.
type rule struct {
	pkg string
	may []string
}

var (
	// helpers are internal packages that any layer may use; they know nothing of
	// the layers above driver.
	helpers  = []string{"driver", "internal"}
	backends = []string{"drivers/local", "drivers/cloud"}
	sdk      = slices.Concat(helpers, backends, []string{".", "ext4"})
)

var rules = []rule{
	{"conformance", sdk}, // a suite: only tests link it
	{"driver", nil},
	{"docs", nil},
	{"ext4", []string{"ext4"}},
	{"internal/archtest", nil},
	{"internal/testing/skips", nil},
	{"internal/testing/bench", slices.Concat(sdk, []string{"drivers/bucket", "server", "transfer"})},
	{"internal/testing/torture", sdk},
	{"internal/testing/treemodel", sdk}, // the suites make their calls through the SDK
	{"internal", slices.Concat(helpers, []string{"ext4"})},
	{"drivers/local/internal/dirstream", helpers},
	// Of the home they know what disk.Home says, so that something else can keep disk volumes.
	{"drivers/local/internal/disk", slices.Concat(helpers, []string{"drivers/local/internal/dirstream", "ext4"})},
	{"drivers/local", slices.Concat(helpers, []string{"drivers/local", "ext4"})},
	{"drivers/bucket", slices.Concat(helpers, []string{"drivers/bucket"})},
	{"drivers/cloud", slices.Concat(helpers, []string{"drivers/cloud"})},
	{".", sdk},
	{"sandbox", slices.Concat(sdk, []string{"sandbox", "transfer"})},
	{"transfer", slices.Concat(sdk, []string{"transfer"})},
	{"mount", slices.Concat(sdk, []string{"mount"})},
	{"plugins", slices.Concat(sdk, []string{"plugins", "mount"})},
	{"server", slices.Concat(sdk, []string{"server", "transfer", "drivers/bucket"})},
	{"cmd", slices.Concat(sdk, []string{"cmd", "docs", "sandbox", "mount", "plugins", "server", "transfer", "drivers/bucket"})},
}

// pkg is what go list says of a package.
type pkg struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	CgoFiles   []string
	Deps       []string
}

// list runs go list without cgo for one system.
func list(t *testing.T, goos string, patterns ...string) []pkg {
	t.Helper()
	args := append([]string{"list", "-json=ImportPath,Dir,GoFiles,CgoFiles,Deps"}, patterns...)
	cmd := exec.Command("go", args...)
	cmd.Dir = root(t)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// ours returns a package's path in the module, and whether it is of the module.
func ours(importPath string) (string, bool) {
	if importPath == module {
		return ".", true
	}
	return strings.CutPrefix(importPath, module+"/")
}

// within reports whether path is prefix or beneath it. "." has nothing beneath it.
func within(path, prefix string) bool {
	return path == prefix || prefix != "." && strings.HasPrefix(path, prefix+"/")
}

func TestImportsGoOneWay(t *testing.T) {
	for _, goos := range systems {
		for _, p := range list(t, goos, "./...") {
			name, _ := ours(p.ImportPath)
			i := slices.IndexFunc(rules, func(r rule) bool { return within(name, r.pkg) })
			if i < 0 {
				t.Errorf("%s stands in no layer: add it to the rules of this test and to ARCHITECTURE.md", name)
				continue
			}
			for _, dep := range p.Deps {
				d, mine := ours(dep)
				allowed := slices.ContainsFunc(rules[i].may, func(m string) bool { return within(d, m) })
				if mine && d != name && !allowed {
					t.Errorf("GOOS=%s: %s links %s, which its layer must not", goos, name, d)
				}
			}
		}
	}
}

func TestNoCgo(t *testing.T) {
	for _, goos := range systems {
		for _, p := range list(t, goos, "-deps", "./...") {
			if p.ImportPath == "runtime/cgo" || len(p.CgoFiles) > 0 {
				t.Errorf("GOOS=%s: the module links %s, which needs cgo", goos, p.ImportPath)
			}
		}
	}
}

// TestSDKIsSmall: a program that embeds the SDK gets no server, command line or
// client of a database server or object store.
func TestSDKIsSmall(t *testing.T) {
	banned := []string{"github.com/jackc/pgx", "github.com/pressly/goose", "github.com/minio/", "github.com/spf13/", "github.com/containerd/", "testing"}
	for _, p := range list(t, "linux", ".") {
		for _, dep := range p.Deps {
			if slices.ContainsFunc(banned, func(b string) bool { return within(dep, strings.TrimSuffix(b, "/")) }) {
				t.Errorf("the SDK links %s", dep)
			}
		}
	}
}

// TestGeneratorsAreNotLinked: what writes manual pages is not in the binary.
func TestGeneratorsAreNotLinked(t *testing.T) {
	for _, p := range list(t, "linux", "./cmd/vole") {
		for _, dep := range []string{"github.com/spf13/cobra/doc", module + "/internal/manpages"} {
			if slices.Contains(p.Deps, dep) {
				t.Errorf("the binary links %s", dep)
			}
		}
	}
}

// TestServersAreForTests: nothing that ships links what is for tests, and a suite that other
// backends link does not link the servers.
func TestServersAreForTests(t *testing.T) {
	const servers = "internal/testing/servers"
	may := []string{servers, "internal/testing/bench", "internal/testing/torture"}
	for _, p := range list(t, "linux", "./...") {
		name, _ := ours(p.ImportPath)
		if slices.Contains(p.Deps, module+"/"+servers) && !slices.Contains(may, name) {
			t.Errorf("%s links %s, which only tests, the benchmark and torture may", name, servers)
		}
		for _, dep := range p.Deps {
			if d, _ := ours(dep); within(d, "internal/testing") && !within(name, "internal/testing") && name != "conformance" {
				t.Errorf("%s links %s, which is for tests", name, d)
			}
		}
	}
}

func TestNoInit(t *testing.T) {
	fset := token.NewFileSet()
	for _, goos := range systems {
		for _, p := range list(t, goos, "./...") {
			for _, file := range p.GoFiles {
				f, err := parser.ParseFile(fset, filepath.Join(p.Dir, file), nil, parser.SkipObjectResolution)
				if err != nil {
					t.Fatal(err)
				}
				for _, d := range f.Decls {
					if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
						t.Errorf("%s: no init functions; let the caller construct what it needs", fset.Position(fn.Pos()))
					}
				}
			}
		}
	}
}

// TestNoRegexpAtStart: no regular expression is compiled when the process starts, which
// every command would pay for; the first use of one compiles it (sync.OnceValue).
func TestNoRegexpAtStart(t *testing.T) {
	fset := token.NewFileSet()
	for _, p := range list(t, "linux", "-deps", "./cmd/vole") {
		if _, mine := ours(p.ImportPath); !mine {
			continue
		}
		for _, file := range p.GoFiles {
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, file), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range f.Decls {
				if variable, ok := d.(*ast.GenDecl); ok && variable.Tok == token.VAR {
					reportCalls(t, fset, variable, "regexp.MustCompile")
				}
			}
		}
	}
}

// reportCalls fails t for each call of a function that is made when a declaration of
// variables is initialized: not within functions.
func reportCalls(t *testing.T, fset *token.FileSet, variables *ast.GenDecl, function string) {
	ast.Inspect(variables, func(n ast.Node) bool {
		if _, later := n.(*ast.FuncLit); later {
			return false
		}
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok && x.Name+"."+sel.Sel.Name == function {
				t.Errorf("%s: %s at the start of every process; compile it at its first use", fset.Position(sel.Pos()), function)
			}
		}
		return true
	})
}

// byName are calls that follow a symbolic link at the end of a name, or take it as checked
// by an earlier call. What changes attributes by name goes through internal/nofollow.
var byName = []string{"os.Chmod", "os.Chown", "os.Chtimes", "unix.Chmod", "unix.Chown", "unix.Fchmodat", "unix.Utimes", "unix.UtimesNano",
	"unix.Utimensat", "unix.Setxattr", "unix.Removexattr", "syscall.Chmod", "syscall.Chown", "syscall.Fchmodat", "syscall.Utimes", "syscall.UtimesNano", "syscall.Setxattr"}

// TestAttributesByDescriptor: no code that ships changes the mode, owner, times or
// attributes of what a link leads to that another user put in the place of a file.
func TestAttributesByDescriptor(t *testing.T) {
	exempt := []string{"internal/nofollow", "conformance", "internal/testing"}
	fset := token.NewFileSet()
	for _, goos := range systems {
		for _, p := range list(t, goos, "./...") {
			name, _ := ours(p.ImportPath)
			if slices.ContainsFunc(exempt, func(e string) bool { return within(name, e) }) {
				continue
			}
			for _, file := range p.GoFiles {
				f, err := parser.ParseFile(fset, filepath.Join(p.Dir, file), nil, parser.SkipObjectResolution)
				if err != nil {
					t.Fatal(err)
				}
				ast.Inspect(f, func(n ast.Node) bool {
					sel, ok := n.(*ast.SelectorExpr)
					if !ok {
						return true
					}
					if x, ok := sel.X.(*ast.Ident); ok && slices.Contains(byName, x.Name+"."+sel.Sel.Name) {
						t.Errorf("%s: %s.%s follows links; use internal/nofollow, or an open file", fset.Position(sel.Pos()), x.Name, sel.Sel.Name)
					}
					return true
				})
			}
		}
	}
}
