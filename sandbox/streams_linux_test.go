package sandbox

import (
	"bytes"
	"os"
	"testing"
	"time"
)

// slowWriter takes its time for each write.
type slowWriter struct{ bytes.Buffer }

func (w *slowWriter) Write(p []byte) (int, error) {
	time.Sleep(20 * time.Millisecond)
	return w.Buffer.Write(p)
}

// A command can hand its output's pipe to another sandbox, by a socket in a volume that
// both have. That one must not keep this one from ending.
func TestOutputThatOthersHold(t *testing.T) {
	var out slowWriter
	s, err := openStreams(IO{Stdout: &out, Stderr: &bytes.Buffer{}}, false)
	if err != nil {
		t.Fatal(err)
	}
	other, err := duplicateHandle(s.child[1])
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	s.closeChildEnds()
	s.startCopying(&helperProcess{terminal: make(chan *os.File, 1)})
	said := bytes.Repeat([]byte("x"), 60000)
	if _, err := other.Write(said); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		s.drainAndClose(true)
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(patience / 2):
		t.Fatal("it waits for as long as another holds the pipe")
	}
	if !bytes.Equal(out.Bytes(), said) {
		t.Errorf("of %d bytes that were written before, %d arrived", len(said), out.Len())
	}
}
