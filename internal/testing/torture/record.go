//go:build unix

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"

	"github.com/volehq/vole"
	"golang.org/x/sys/unix"
)

// record is one line that a child writes: that an operation begins, or how it ended.
type record struct {
	Lane string `json:"l"`
	Op   string `json:"op"`
	Done bool   `json:"done,omitempty"` // false: it begins
	Vol  string `json:"v,omitempty"`    // name of the volume
	To   string `json:"to,omitempty"`   // new name of a volume or path
	ID   string `json:"id,omitempty"`
	Path string `json:"p,omitempty"`
	Tag  int64  `json:"tag,omitempty"` // identifies a file's content, or is a label's value

	Err   string `json:"err,omitempty"` // class of the error, see errorClass
	Text  string `json:"text,omitempty"`
	Start int64  `json:"s,omitempty"` // nanoseconds of the monotonic clock
	End   int64  `json:"e,omitempty"`
	Limit int64  `json:"lim,omitempty"` // how long its context let it wait, nanoseconds
}

func (r record) String() string {
	data, _ := json.Marshal(r)
	return string(data)
}

// monotonicNow reads the monotonic clock, which all processes of a host share.
func monotonicNow() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // the clock is always there
	}
	return ts.Nano()
}

// errorClass names the errors that a loser of a fight may get; others are "other".
func errorClass(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, vole.ErrNotFound):
		return "not-found"
	case errors.Is(err, vole.ErrExists):
		return "exists"
	case errors.Is(err, vole.ErrInUse):
		return "in-use"
	case errors.Is(err, vole.ErrNotExist):
		return "no-file"
	}
	return "other"
}

// journal writes records to the parent. A line is one write(2) of less than PIPE_BUF
// bytes, so it is there whole once the call returned, whatever becomes of this process.
type journal struct {
	mu sync.Mutex // guards w
	w  io.Writer
}

func (j *journal) write(r record) {
	data, err := json.Marshal(r)
	if err != nil {
		panic(err) // plain strings and numbers
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err := j.w.Write(append(data, '\n')); err != nil {
		os.Exit(3) // the parent is gone
	}
}

// child is a running child and what it said.
type child struct {
	cmd     *exec.Cmd
	ended   chan struct{} // closed when all was read
	mu      sync.Mutex    // guards records
	records []record
}

// spawnChild starts this program as a child.
func spawnChild(c config, role string, slot int, seed uint64) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "-child", role, "-home", c.home, "-slot", strconv.Itoa(slot),
		"-seed", strconv.FormatUint(seed, 10), "-goroutines", strconv.Itoa(c.goroutines), "-contend", c.contend.String())
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ch := &child{cmd: cmd, ended: make(chan struct{})}
	go ch.readRecords(pipe)
	return ch, nil
}

func (ch *child) readRecords(pipe io.Reader) {
	defer close(ch.ended)
	in := bufio.NewReaderSize(pipe, 1<<20)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return // a last line without newline was never finished
		}
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			r = record{Op: "garbled", Err: "other", Text: string(line)}
		}
		ch.mu.Lock()
		ch.records = append(ch.records, r)
		ch.mu.Unlock()
	}
}

// hasWritten reports whether the child has written anything yet.
func (ch *child) hasWritten() bool {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	return len(ch.records) > 0
}

// kill ends the child at once and returns all it said.
func (ch *child) kill() ([]record, error) {
	if err := ch.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return nil, err
	}
	<-ch.ended
	err := ch.cmd.Wait()
	if status, ok := ch.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		return nil, fmt.Errorf("a child ended before it was killed: %v", err)
	}
	return ch.records, nil
}

// wait waits for the child's own end and returns all it said.
func (ch *child) wait() ([]record, error) {
	<-ch.ended
	return ch.records, ch.cmd.Wait()
}
