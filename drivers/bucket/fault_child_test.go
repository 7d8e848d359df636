package bucket_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/bucket"
)

// A client is this test binary once more, so that it can be killed or stopped: what
// remains then is what remains of a host. It says on its standard output what it does.

// clientEnv has, as JSON, what the client is to do.
const clientEnv = "VOLE_TEST_CLIENT"

type clientSpec struct {
	Do   string // one of clientJobs
	Opts bucket.Options
	Dir  string // in which it works, in the volume "shared"
	Seed uint64
}

// clientJobs are what clients do. A job's errors end the client.
var clientJobs = map[string]func(*client, context.Context) error{
	"work":  (*client).workLoop,
	"hold":  (*client).holdAttachment,
	"leave": (*client).leaveSession,
}

// runAsClientIfAsked is how TestMain lets the binary be a client; otherwise it does nothing.
func runAsClientIfAsked() {
	text := os.Getenv(clientEnv)
	if text == "" {
		return
	}
	c := &client{in: make(chan string)}
	err := json.Unmarshal([]byte(text), &c.spec)
	if err == nil {
		go c.listen()
		err = c.run(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

type client struct {
	spec  clientSpec
	store *vole.Store
	vol   *vole.Volume
	fs    *vole.FS
	in    chan string // lines of standard input
}

// listen ends the client when its parent is gone.
func (c *client) listen() {
	for s := bufio.NewScanner(os.Stdin); s.Scan(); {
		c.in <- s.Text()
	}
	os.Exit(3)
}

func (c *client) run(ctx context.Context) error {
	b, err := bucket.OpenOrg(ctx, c.spec.Opts, "acme")
	if err != nil {
		return err
	}
	c.store = vole.New(b)
	if c.vol, err = c.store.Get(ctx, "shared"); err != nil {
		return err
	}
	if c.fs, err = c.vol.FS(ctx); err != nil {
		return err
	}
	return clientJobs[c.spec.Do](c, ctx)
}

// printLine writes a line at once: what was said before a kill is in the pipe.
func printLine(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// process is a client as its parent sees it.
type process struct {
	cmd   *exec.Cmd
	in    *os.File
	lines chan string // closed when the client has ended
	once  sync.Once
}

// startClient starts a client, which is killed when the test ends at the latest.
func startClient(t *testing.T, spec clientSpec) *process {
	t.Helper()
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := &process{cmd: exec.Command(os.Args[0]), in: w, lines: make(chan string, 1<<16)}
	p.cmd.Env = append(os.Environ(), clientEnv+"="+string(text))
	p.cmd.Stdin, p.cmd.Stderr = r, os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		t.Fatal(errors.Join(err, w.Close()))
	}
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	t.Cleanup(p.killAndWait)
	return p
}

// killAndWait ends the client as kill -9 does.
func (p *process) killAndWait() {
	p.once.Do(func() {
		_ = p.cmd.Process.Kill()
		for range p.lines { // Wait must not be called before all is read
		}
		_ = p.cmd.Wait() // its error is the kill
		_ = p.in.Close()
	})
}

// waitForEnd kills the client and returns the lines that were not read yet.
func (p *process) waitForEnd() []string {
	_ = p.cmd.Process.Kill()
	var list []string
	for l := range p.lines {
		list = append(list, l)
	}
	p.killAndWait()
	return list
}

func (p *process) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// sendLine gives the client a line to go on.
func (p *process) sendLine(t *testing.T, line string) {
	t.Helper()
	if _, err := fmt.Fprintln(p.in, line); err != nil {
		t.Fatal(err)
	}
}

// nextLine returns the next line that the client says.
func (p *process) nextLine(t *testing.T) string {
	t.Helper()
	select {
	case l, ok := <-p.lines:
		if !ok {
			t.Fatal("the client ended by itself")
		}
		return l
	case <-time.After(time.Minute):
		t.Fatal("the client says nothing")
	}
	return ""
}
