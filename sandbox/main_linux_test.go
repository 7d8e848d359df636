package sandbox

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole"
)

func TestMain(m *testing.M) {
	Init()
	if os.Getenv(syscallsEnv) != "" {
		trySyscalls()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// env is a home with a Manager.
type env struct {
	t     *testing.T
	home  string
	store *vole.Store
	m     *Manager
}

func newEnv(t *testing.T) *env {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root; the rootless tests run as another user by themselves")
	}
	return openEnv(t, tempHome(t))
}

// tempHome is a directory for a home that is removed when the test ends: once no sandbox closes its
// files there any more, which one that was stopped or forgotten may still do.
func tempHome(t *testing.T) string {
	t.Helper()
	home := t.TempDir()
	t.Cleanup(func() { waitUntil(t, "the home is removed", func() bool { return os.RemoveAll(home) == nil }) })
	return home
}

func openEnv(t *testing.T, home string) *env {
	t.Helper()
	ctx := context.Background()
	store, err := vole.Open(ctx, vole.Options{Home: home})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	m, err := Open(ctx, home, store)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return &env{t, home, store, m}
}

// eachRuntime runs fn with every runtime that is installed.
func eachRuntime(t *testing.T, fn func(t *testing.T, e *env, runtime string)) {
	for _, name := range Runtimes {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			if _, err := findRuntimeBinary(name); err != nil {
				t.Skip(err)
			}
			fn(t, e, name)
		})
	}
}

// anyEnv runs fn with the first runtime that works.
func anyEnv(t *testing.T) *env {
	t.Helper()
	e := newEnv(t)
	if _, err := e.m.chooseRuntime(testContext(t), ""); errors.Is(err, vole.ErrUnsupported) {
		t.Skip(err)
	}
	return e
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

type output struct {
	Result
	out, err string
}

// run runs c and returns what it printed.
func (e *env) run(c Config, stdin string) (output, error) {
	e.t.Helper()
	var out, errs bytes.Buffer
	io := IO{Stdout: &out, Stderr: &errs}
	if stdin != "" {
		io.Stdin = strings.NewReader(stdin)
	}
	res, err := e.m.Run(testContext(e.t), c, io)
	if res.Cleanup != nil {
		e.t.Errorf("%s: clean up: %v", res.Name, res.Cleanup)
	}
	return output{res, out.String(), errs.String()}, err
}

// runShell runs a shell script on the host's root, which must end with exit code 0.
func (e *env) runShell(script string, mounts ...string) string {
	e.t.Helper()
	o, err := e.run(shellConfig(e.t, script, mounts...), "")
	if err != nil {
		e.t.Fatalf("%s: %v\n%s", script, err, o.err)
	}
	if o.ExitCode != 0 {
		e.t.Fatalf("%s: exit code %d\n%s%s", script, o.ExitCode, o.out, o.err)
	}
	return o.out
}

func shellConfig(t *testing.T, script string, mounts ...string) Config {
	t.Helper()
	c := Config{Args: []string{"sh", "-c", script}}
	for _, s := range mounts {
		m, err := ParseMount(s)
		if err != nil {
			t.Fatal(err)
		}
		c.Mounts = append(c.Mounts, m)
	}
	return c
}
