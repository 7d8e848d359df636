package bucket_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// cut says how a connection ends around a commit.
type cut int

const (
	cutNone   cut = iota
	cutBefore     // the commit never reaches the server
	cutSent       // it does, and the client is cut off at once
	cutDone       // the client is cut off instead of getting the answer
	cutLate       // the client is cut off, and only then does the server get the commit
	cuts
)

// lateness is by how much: the client is at its next try by then.
const lateness = 30 * time.Millisecond

// pgProxy stands before a PostgreSQL server and cuts connections around their commits.
type pgProxy struct {
	to     string
	listen net.Listener
	wait   sync.WaitGroup

	mu     sync.Mutex // guards what follows
	choose func() cut // asked at each commit; nil: none is cut
	conns  map[net.Conn]bool
	closed bool
}

// newPGProxy returns a proxy before the server of a URL, and the URL to use instead.
func newPGProxy(t *testing.T, to string) (*pgProxy, string) {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &pgProxy{to: u.Host, listen: l, conns: map[net.Conn]bool{}}
	p.wait.Go(p.serve)
	t.Cleanup(p.close)
	u.Host = l.Addr().String()
	return p, u.String()
}

func (p *pgProxy) close() {
	_ = p.listen.Close()
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		c.Close()
	}
	p.mu.Unlock()
	p.wait.Wait()
}

// setCuts makes f say what happens to each commit from now on.
func (p *pgProxy) setCuts(f func() cut) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.choose = f
}

func (p *pgProxy) nextCut() cut {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.choose == nil {
		return cutNone
	}
	return p.choose()
}

func (p *pgProxy) serve() {
	for {
		c, err := p.listen.Accept()
		if err != nil {
			return
		}
		s, err := net.Dial("tcp", p.to)
		if err != nil {
			c.Close()
			continue
		}
		p.mu.Lock()
		closed := p.closed
		p.conns[c], p.conns[s] = true, true
		p.mu.Unlock()
		if closed {
			c.Close()
			s.Close()
			return
		}
		p.wait.Go(func() { p.forward(c, s) })
	}
}

// forward copies both ways until one side ends, or a commit is cut.
func (p *pgProxy) forward(client, server net.Conn) {
	mute := make(chan struct{}) // closed when the client is to hear no more
	back := make(chan struct{})
	go func() {
		defer close(back)
		forwardAnswers(client, server, mute)
	}()
	how := p.forwardRequests(client, server, mute)
	if how == cutSent || how == cutDone || how == cutLate {
		// The server is heard to the end of its answer, so that it is not disturbed.
		_ = server.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		<-back
	}
	client.Close()
	server.Close()
	<-back
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, client)
	delete(p.conns, server)
}

func forwardAnswers(client, server net.Conn, mute chan struct{}) {
	buf := make([]byte, 64<<10)
	for {
		n, err := server.Read(buf)
		select {
		case <-mute:
		default:
			if _, werr := client.Write(buf[:n]); werr != nil {
				err = errors.Join(err, werr)
			}
		}
		if err != nil {
			client.Close()
			return
		}
	}
}

// forwardRequests forwards what the client sends. A commit, with all that is sent before the
// next Sync, is one unit. https://www.postgresql.org/docs/15/protocol-message-formats.html
func (p *pgProxy) forwardRequests(client, server net.Conn, mute chan struct{}) cut {
	if _, err := copyMessage(server, client, nil); err != nil { // the start-up has no type
		return cutNone
	}
	commits := map[string]bool{} // prepared statements that are COMMIT
	var held []byte              // a commit that has begun
	for {
		typ := make([]byte, 1)
		if _, err := io.ReadFull(client, typ); err != nil {
			return cutNone
		}
		body, err := copyMessage(nil, client, typ)
		if err != nil {
			return cutNone
		}
		switch name, rest, _ := strings.Cut(string(body[5:]), "\x00"); typ[0] {
		case 'P':
			commits[name] = strings.HasPrefix(strings.ToUpper(rest), "COMMIT\x00")
		case 'B':
			statement, _, _ := strings.Cut(rest, "\x00")
			if commits[statement] && held == nil {
				held = []byte{}
			}
		}
		if held == nil {
			if _, err := server.Write(body); err != nil {
				return cutNone
			}
			continue
		}
		if held = append(held, body...); typ[0] != 'S' {
			continue
		}
		if how := p.forwardCommit(client, server, held, mute); how != cutNone {
			return how
		}
		held = nil
	}
}

// forwardCommit forwards a commit, or not.
func (p *pgProxy) forwardCommit(client, server net.Conn, data []byte, mute chan struct{}) cut {
	how := p.nextCut()
	if how == cutBefore {
		return how
	}
	if how != cutNone {
		close(mute)
	}
	if how == cutLate {
		client.Close()
		time.Sleep(lateness)
	}
	_, err := server.Write(data)
	if how == cutSent {
		client.Close()
	}
	if err != nil {
		return cutBefore
	}
	return how
}

// copyMessage reads a message whose type, if any, was read, and writes it to w if that
// is not nil.
func copyMessage(w io.Writer, r io.Reader, typ []byte) ([]byte, error) {
	size := make([]byte, 4)
	if _, err := io.ReadFull(r, size); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size)
	if n < 4 || n > 1<<30 {
		return nil, errors.New("this is not PostgreSQL's protocol")
	}
	msg := append(append([]byte(nil), typ...), size...)
	head := len(msg)
	msg = append(msg, make([]byte, n-4)...)
	if _, err := io.ReadFull(r, msg[head:]); err != nil {
		return nil, err
	}
	if w != nil {
		_, err := w.Write(msg)
		return msg, err
	}
	return msg, nil
}
