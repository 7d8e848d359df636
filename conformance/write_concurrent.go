package conformance

import (
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/volehq/vole"
)

// uniform is a file of one byte repeated: any mixture of two shows.
func uniform(i int) string {
	return strings.Repeat(string(rune('a'+i%26)), 1000+(i*37%50)*1000)
}

func isUniform(s string) bool {
	return len(s) >= 1000 && len(s)%1000 == 0 && strings.Count(s, s[:1]) == len(s) && s == uniformOf(s)
}

// uniformOf is the file that begins like s and was ever written: its letter and its
// length belong together.
func uniformOf(s string) string {
	for i := int(s[0] - 'a'); i < 26*50; i += 26 {
		if u := uniform(i); len(u) == len(s) {
			return u
		}
	}
	return ""
}

// Readers never see a part of a file, a mixture of two or none, however it is read.
func testWriteNeverTorn(t *testing.T, e *env) {
	f := e.files(t)
	f.write("f", uniform(0))
	rounds := 200
	if testing.Short() {
		rounds = 60
	}
	var done atomic.Bool
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			for !done.Load() {
				var data []byte
				var err error
				if i == 0 {
					data, err = readStream(f)
				} else {
					data, err = f.ReadFile(f.ctx, "f")
				}
				if err != nil || !isUniform(string(data)) {
					t.Errorf("read %d bytes %.10q, %v: not what was ever written", len(data), data, err)
					return
				}
			}
		})
	}
	for i := range rounds {
		if err := f.WriteFile(f.ctx, "f", []byte(uniform(i)), 0o644); err != nil {
			t.Errorf("write: %v", err)
			break
		}
	}
	done.Store(true)
	wg.Wait()
}

func readStream(f *files) ([]byte, error) {
	r, err := f.NewReader(f.ctx, "f", 0, -1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func testWriteConcurrent(t *testing.T, e *env) {
	f := e.files(t)
	errs := race(6, func(i int) error {
		for j := range 15 {
			if err := f.WriteFile(f.ctx, "same/parents/f", []byte(uniform(i*15+j)), 0o644); err != nil {
				return err
			}
		}
		return nil
	})
	must(t, "write", errors.Join(errs...))
	got := f.read("same/parents/f")
	if !isUniform(got) {
		t.Errorf("%d bytes %.10q: not what was ever written", len(got), got)
	}
	f.hasNames("same/parents", "f")
	f.used("after many writers", int64(len(got)))
}

// A write from a slow source blocks no other call, not even one on the same file.
func testWriteSlowSource(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	started, goOn := make(chan struct{}), make(chan struct{})
	first := true
	slow := readerFunc(func(p []byte) (int, error) {
		if !first {
			return 0, io.EOF
		}
		first = false
		close(started)
		<-goOn
		return copy(p, "slow"), nil
	})
	done := make(chan error, 1)
	go func() {
		_, err := f.WriteFrom(f.ctx, "file", slow, vole.WriteOptions{})
		done <- err
	}()
	<-started
	err := within(t, func() error {
		_, err := f.ReadDir(f.ctx, ".")
		return errors.Join(err,
			f.WriteFile(f.ctx, "file", []byte("fast"), 0o644),
			f.WriteFile(f.ctx, "other", []byte("other"), 0o644),
			f.Rename(f.ctx, "other", "moved", vole.RenameOptions{}),
			f.Copy(f.ctx, "file", "copied", vole.CopyOptions{}),
			f.RemoveAll(f.ctx, "full"))
	})
	close(goOn)
	ok(t, "others", err)
	must(t, "slow write", <-done)
	f.holds("copied", "fast")
	f.holds("file", "slow")
	f.used("at the end", 4+5+4)
}

// readsWhole reads a file of uniform contents again and again, each time whole and
// undamaged, until stop is called.
func (f *files) readsWhole(name string) (stop func()) {
	var done atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for !done.Load() {
			data, err := f.ReadFile(f.ctx, name)
			if err != nil || !isUniform(string(data)) {
				f.t.Errorf("read %d bytes, %v", len(data), err)
				return
			}
		}
	})
	return func() {
		done.Store(true)
		wg.Wait()
	}
}
