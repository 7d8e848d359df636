package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"github.com/volehq/vole/driver"
)

// The supervisor and its helper talk over a pair of packet sockets, one JSON value in
// each packet. Packets keep their bounds, so a terminal can travel beside one.

// maxPacket bounds a packet. The plan, which may be larger, travels over a pipe.
const maxPacket = 64 << 10

// request is what the supervisor asks of the helper.
type request struct {
	Seq    int    `json:"seq"` // echoed in the answer
	Op     string `json:"op"`  // signal, pause, resume
	Signal int    `json:"signal,omitempty"`
}

// event is what the helper tells.
type event struct {
	Seq   int        `json:"seq,omitempty"` // of the request that this answers
	Type  string     `json:"type"`          // terminal, started, ended, failed, answer
	Exit  int        `json:"exit,omitempty"`
	Error *wireError `json:"error,omitempty"`
}

// wireError is an error that keeps its kind on its way to another process.
type wireError struct {
	Code     string `json:"code"` // of driver.Class
	Message  string `json:"message"`
	ExecCode int    `json:"exec_code,omitempty"` // of ExecError
}

// encodeError makes an error fit for a packet: its message is cut to an eighth of one.
func encodeError(err error) *wireError {
	if err == nil {
		return nil
	}
	w := &wireError{Code: driver.Classify(err).Code, Message: err.Error()}
	if e := (*ExecError)(nil); errors.As(err, &e) {
		w.ExecCode = e.ExitCode
	}
	if len(w.Message) > maxPacket/8 {
		w.Message = w.Message[:maxPacket/8]
	}
	return w
}

// decodeError returns the error that matches what the other process had under errors.Is.
func (w *wireError) decodeError() error {
	if w == nil {
		return nil
	}
	err := errors.New(w.Message)
	if kind := driver.FromCode(w.Code); kind != nil {
		err = driver.Errorf(kind, "%s", w.Message)
	}
	if w.ExecCode != 0 {
		err = &ExecError{w.ExecCode, err}
	}
	return err
}

// packets is one end of the pair.
type packets struct{ c *net.UnixConn }

// makePacketPair returns one end to use here and one to give to a child.
func makePacketPair() (packets, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return packets{}, nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "helper")
	ours, err := openPackets(os.NewFile(uintptr(fds[0]), "supervisor"))
	if err != nil {
		theirs.Close()
		return packets{}, nil, err
	}
	return ours, theirs, nil
}

// openPackets takes f over.
func openPackets(f *os.File) (packets, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return packets{}, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return packets{}, fmt.Errorf("%T is not a unix socket", c)
	}
	return packets{u}, nil
}

// sendPacket sends v, with a file beside it unless that is nil.
func (p packets) sendPacket(v any, f *os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var oob []byte
	if f != nil {
		oob = syscall.UnixRights(int(f.Fd()))
	}
	_, _, err = p.c.WriteMsgUnix(b, oob, nil)
	return err
}

// receivePacket reads one packet into v, and the file that came beside it, or nil.
func (p packets) receivePacket(v any) (*os.File, error) {
	b := make([]byte, maxPacket)
	oob := make([]byte, syscall.CmsgSpace(4))
	n, oobn, _, _, err := p.c.ReadMsgUnix(b, oob)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, net.ErrClosed
	}
	f, err := parseRights(oob[:oobn])
	if err != nil {
		return nil, err
	}
	return f, json.Unmarshal(b[:n], v)
}

// parseRights returns the file descriptor in a control message, if there is one.
func parseRights(oob []byte) (*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := syscall.ParseSocketControlMessage(oob)
	if err != nil || len(msgs) != 1 {
		return nil, errors.Join(err, fmt.Errorf("%d control messages", len(msgs)))
	}
	fds, err := syscall.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.Join(err, fmt.Errorf("%d files in a control message", len(fds)))
	}
	syscall.CloseOnExec(fds[0])
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}
