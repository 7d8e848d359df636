package cloud_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/drivers/cloud"
	"github.com/volehq/vole/server"
)

// A server of these tests is a second process of the test binary, so that it can be killed. It
// ends when its standard input does.

// childEnv is the variable with the childSpec of a child, as JSON.
const childEnv = "VOLE_TEST_SERVER"

type childSpec struct {
	Home   string
	Bucket *bucket.Options
	// Advertise makes sessions stay with this very server.
	Advertise bool
}

// runAsServer serves until standard input ends, and exits, if childEnv is set.
func runAsServer() {
	text := os.Getenv(childEnv)
	if text == "" {
		return
	}
	if err := serveFromSpec(text); err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serveFromSpec(text string) error {
	var spec childSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	opts := server.Options{Home: spec.Home, Bucket: spec.Bucket, Lease: 5 * time.Second}
	if spec.Advertise {
		opts.Advertise = "http://" + ln.Addr().String()
	}
	s, err := server.New(context.Background(), opts)
	if err != nil {
		return err
	}
	key, err := s.FirstKey(context.Background())
	if err != nil {
		return err
	}
	fmt.Printf("\nserves %s %s\n", ln.Addr(), key)
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	return errors.Join(s.Serve(ctx, ln, time.Second), s.Close())
}

// child is a server in a process of its own.
type child struct {
	cmd  *exec.Cmd
	in   io.Closer
	addr string
	key  string // of the first start
	once sync.Once
}

func startChild(t *testing.T, spec childSpec) *child {
	t.Helper()
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append(os.Environ(), childEnv+"="+string(text), "GOGC=100") // as processes of their own have it
	c.cmd.Stderr = os.Stderr
	in, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.in = in
	out, err := c.cmd.StdoutPipe()
	if err == nil {
		err = c.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.kill)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "serves "); ok {
			c.addr, c.key, _ = strings.Cut(rest, " ")
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return c
		}
		if text := lines.Text(); text != "" {
			t.Log("child:", text)
		}
	}
	t.Fatal("the server did not start")
	return nil
}

// kill ends the server as kill -9 does.
func (c *child) kill() {
	c.once.Do(func() {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait() // its error is the kill
		_ = c.in.Close()
	})
}

// relay is an address that stays while the servers behind it come and go. It distributes
// connections over them in turn.
type relay struct {
	ln net.Listener

	mu       sync.Mutex // guards what follows
	to       map[string]bool
	nextTurn int
}

func startRelay(t *testing.T) *relay {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{ln: ln, to: map[string]bool{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { r.forward(conn) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		wg.Wait()
	})
	return r
}

func (r *relay) add(addr string) { r.mu.Lock(); defer r.mu.Unlock(); r.to[addr] = true }

func (r *relay) remove(addr string) { r.mu.Lock(); defer r.mu.Unlock(); delete(r.to, addr) }

func (r *relay) dial() net.Conn {
	r.mu.Lock()
	var list []string
	for addr := range r.to {
		list = append(list, addr)
	}
	r.nextTurn++
	turn := r.nextTurn
	r.mu.Unlock()
	for i := range list {
		if conn, err := net.Dial("tcp", list[(turn+i)%len(list)]); err == nil {
			return conn
		}
	}
	return nil
}

// forward ends a connection when either side does.
func (r *relay) forward(conn net.Conn) {
	defer conn.Close()
	to := r.dial()
	if to == nil {
		return
	}
	defer to.Close()
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(to, conn)
		_ = to.Close()
		_ = conn.Close()
		close(done)
	}()
	_, _ = io.Copy(conn, to)
	_ = to.Close()
	_ = conn.Close()
	<-done
}

func (r *relay) url() string { return "http://" + r.ln.Addr().String() }

// connect opens a store that is closed after the test.
func connect(t *testing.T, url, key string) *vole.Store {
	t.Helper()
	b, err := cloud.Open(context.Background(), cloud.Options{URL: url, Key: key, Patience: 30 * time.Second})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	s := vole.New(b)
	t.Cleanup(func() { _ = s.Close() })
	return s
}
