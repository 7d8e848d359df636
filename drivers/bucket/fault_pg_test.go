package bucket_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/internal/testing/servers"
)

var (
	faultStops   = flag.Int("fault.stops", 8, "how often TestPostgresStops stops the server")
	faultCommits = flag.Int("fault.commits", 150, "how many commits TestLostCommit cuts off")
)

// ackLog is what writers have appended to a file: lines, each told to be there or unknown.
type ackLog struct {
	mu      sync.Mutex // guards what follows
	acked   map[string]bool
	unknown map[string]error
}

func newAckLog() *ackLog { return &ackLog{acked: map[string]bool{}, unknown: map[string]error{}} }

// appendLine appends a line of its own.
func (l *ackLog) appendLine(ctx context.Context, h *vole.File, line string) {
	_, err := h.Append(ctx, []byte(line+"\n"))
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.acked[line] = true
	} else {
		l.unknown[line] = err
	}
}

// awaitLines waits until the log has a number of acknowledged lines more than now.
func (l *ackLog) awaitLines(t *testing.T, more int) {
	t.Helper()
	until := time.Now().Add(time.Minute)
	for want := l.countAcked() + more; l.countAcked() < want; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("nothing is written any more")
		}
	}
}

func (l *ackLog) countAcked() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

// checkLines checks that each line that was told to be there is there once, that no other
// is there twice, and that nothing else is.
func (l *ackLog) checkLines(t *testing.T, f *vole.FS, path string) {
	t.Helper()
	data, err := f.ReadFile(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for line := range strings.Lines(string(data)) {
		seen[strings.TrimSuffix(line, "\n")]++
	}
	for line, n := range seen {
		if n != 1 || !l.acked[line] && l.unknown[line] == nil {
			t.Errorf("%q is there %d times (acknowledged %v, error %v)", line, n, l.acked[line], l.unknown[line])
		}
	}
	for line := range l.acked {
		if seen[line] == 0 {
			t.Errorf("%q was acknowledged and is lost", line)
		}
	}
}

// ownPostgres is a namespace in a PostgreSQL that the test may stop.
func ownPostgres(t *testing.T) (*servers.Postgres, bucket.Options) {
	t.Helper()
	pg, err := servers.StartPostgres(t.Context(), "")
	servers.Check(t, err)
	t.Cleanup(func() {
		if err := pg.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := pg.CreateDatabase("vole"); err != nil {
		t.Fatal(err)
	}
	return pg, bucket.Options{Database: pg.URL("vole"), Blobs: filepath.Join(t.TempDir(), "blobs"), Maintain: -1, Lease: 2 * time.Second}
}

// TestPostgresStops stops the database amid writes, as a crash does, and starts it
// again: what was acknowledged is there once, and calls go on as if nothing had been.
func TestPostgresStops(t *testing.T) {
	t.Parallel()
	pg, opts := ownPostgres(t)
	s, _, f := openShared(t, opts)
	_, _, other := openShared(t, opts)
	l := newAckLog()
	ctx, stop := context.WithCancel(context.Background())
	var writers sync.WaitGroup
	var versions [4]int // of the file that each writer replaces
	for w := range versions {
		fs := []*vole.FS{f, other}[w%2]
		// Opened before the first stop: with bad luck a writer would wait to the end to begin.
		log, err := fs.Open(ctx, "log", vole.OpenOptions{Append: true, Create: true})
		if err != nil {
			t.Fatal(err)
		}
		writers.Go(func() { versions[w] = writeUntilStopped(ctx, t, fs, log, l, w) })
	}
	for range *faultStops {
		l.awaitLines(t, 2) // however slow the machine is
		time.Sleep(rand.N(200 * time.Millisecond))
		if err := pg.StopImmediate(); err != nil {
			t.Error(err)
		}
		time.Sleep(rand.N(150 * time.Millisecond))
		if err := pg.Start(); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(200 * time.Millisecond)
	stop()
	writers.Wait()
	l.checkLines(t, f, "log")
	for w, v := range versions {
		got, err := f.ReadFile(t.Context(), fmt.Sprintf("file%d", w))
		if v == 0 && errors.Is(err, vole.ErrNotExist) {
			continue // its first write was still under way at the end
		}
		if err != nil || string(got) != string(contentVersion(w, v)) && string(got) != string(contentVersion(w, v+1)) {
			t.Errorf("file%d: %d bytes, %v; want version %d or the next", w, len(got), err, v)
		}
	}
	mustAuditClean(t, s, "after stops of the database")
	t.Logf("%d stops: %d lines, %d errors, versions %v", *faultStops, len(l.acked), len(l.unknown), versions)
	// A stop is shorter than the patience: only what was under way at the end may fail.
	if len(l.unknown) > len(versions) {
		t.Errorf("%d calls failed: %v", len(l.unknown), l.unknown)
	}
	if len(l.acked) < *faultStops {
		t.Error("next to nothing was written")
	}
}

func contentVersion(w, v int) []byte { return pattern(uint64(w*1000000+v), []int{300, 40 << 10}[v%2]) }

// writeUntilStopped appends lines to h, which it closes, and replaces a file until ctx ends. It
// returns the version of the file that was acknowledged last.
func writeUntilStopped(ctx context.Context, t *testing.T, f *vole.FS, h *vole.File, l *ackLog, w int) int {
	defer func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}()
	last := 0
	for i := 1; ctx.Err() == nil; i++ {
		l.appendLine(ctx, h, fmt.Sprintf("%d-%06d", w, i))
		err := f.WriteFile(ctx, fmt.Sprintf("file%d", w), contentVersion(w, i), 0o644)
		if err == nil {
			last = i
		} else if ctx.Err() == nil {
			t.Errorf("write: %v", err)
		}
	}
	return last
}

// TestLostCommit cuts connections to the database around commits, so that their result is
// unknown: every call succeeds, and has its effect once.
func TestLostCommit(t *testing.T) {
	t.Parallel()
	opts := bucket.Options{Database: servers.PG(t), Blobs: filepath.Join(t.TempDir(), "blobs"), Maintain: -1}
	proxy, url := newPGProxy(t, opts.Database)
	direct, _, f := openShared(t, opts)
	through := opts
	through.Database = url
	s, v, files := openShared(t, through)
	var n, done atomic.Int64
	var kinds [cuts]atomic.Int64
	proxy.setCuts(func() cut {
		if n.Add(1)%2 == 0 || done.Load() >= int64(*faultCommits) {
			return cutNone // so that a call has a chance
		}
		how := 1 + rand.N(cuts-1)
		kinds[how].Add(1)
		done.Add(1)
		return how
	})
	l := newAckLog()
	h, err := files.Open(t.Context(), "log", vole.OpenOptions{Append: true, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; done.Load() < int64(*faultCommits); i++ {
		l.appendLine(t.Context(), h, fmt.Sprint(i))
		if err := makeUnrepeatableChanges(t.Context(), s, v, files, i); err != nil {
			t.Errorf("round %d: %v", i, err)
		}
	}
	proxy.setCuts(nil)
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if len(l.unknown) > 0 {
		t.Errorf("%d appends failed: %v", len(l.unknown), l.unknown)
	}
	l.checkLines(t, f, "log")
	mustAuditClean(t, direct, "after lost commits")
	t.Logf("%d lines; cut before, sent, done, late: %d %d %d %d", len(l.acked), kinds[1].Load(), kinds[2].Load(), kinds[3].Load(), kinds[4].Load())
	for i := range kinds[1:] {
		if kinds[i+1].Load() == 0 {
			t.Errorf("cut %d never came", i+1)
		}
	}
}

// makeUnrepeatableChanges makes calls that would fail, or do something else, if they had been made twice.
func makeUnrepeatableChanges(ctx context.Context, s *vole.Store, v *vole.Volume, f *vole.FS, i int) error {
	name := fmt.Sprintf("v%d", i)
	switch i % 6 {
	case 0: // a name that is free is taken once
		made, err := s.Create(ctx, name, vole.Spec{})
		if err != nil {
			return fmt.Errorf("create: %w", err)
		}
		if err := made.Update(ctx, vole.Update{Name: name + "x"}); err != nil {
			return fmt.Errorf("update: %w", err)
		}
		if err := made.Remove(ctx); err != nil {
			return fmt.Errorf("remove: %w", err)
		}
	case 1:
		return errors.Join(f.Mkdir(ctx, name, 0o755), f.Rename(ctx, name, name+"x", vole.RenameOptions{NoReplace: true}), f.Remove(ctx, name+"x"))
	case 2:
		_, err := f.WriteFrom(ctx, name, strings.NewReader(name), vole.WriteOptions{Exclusive: true})
		return errors.Join(err, f.Link(ctx, name, name+"x"), f.Copy(ctx, name, name+"y", vole.CopyOptions{NoReplace: true}))
	case 3:
		c, err := v.Clone(ctx, name, vole.Spec{})
		if err != nil {
			return fmt.Errorf("clone: %w", err)
		}
		return c.Remove(ctx)
	case 4:
		a, err := v.Attach(ctx, vole.AttachOptions{Exclusive: true, ReadOnly: true})
		if err != nil {
			return fmt.Errorf("attach: %w", err)
		}
		return a.Detach(ctx)
	case 5:
		h, err := f.Open(ctx, name, vole.OpenOptions{Write: true, Create: true, Exclusive: true})
		if err != nil {
			return fmt.Errorf("open: %w", err)
		}
		_, err = h.WriteAt(ctx, []byte(name), 0)
		return errors.Join(err, f.Remove(ctx, name), h.Close())
	}
	return nil
}
