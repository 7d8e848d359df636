package bucket_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/bucket"
)

// lease is that of the clients of these tests. A client renews it in thirds, which a busy
// machine must not hold up for long; tardiness is how much later an end may be noticed there.
const (
	lease     = 4 * time.Second
	tardiness = 20 * time.Second
)

// holdAttachment attaches the volume exclusively and writes. At the word it tries to write in
// every way, and says how each ended.
func (c *client) holdAttachment(ctx context.Context) error {
	a, err := c.vol.Attach(ctx, vole.AttachOptions{Exclusive: true, Holder: "first"})
	if err != nil {
		return err
	}
	f, err := c.vol.OpenFS(ctx, vole.FSOptions{Attachment: a.Info().ID})
	if err != nil {
		return err
	}
	if err := f.WriteFile(ctx, "file", []byte("first"), 0o644); err != nil {
		return err
	}
	h, err := f.Open(ctx, "file", vole.OpenOptions{Write: true})
	if err != nil {
		return err
	}
	if _, err := h.WriteAt(ctx, []byte("late"), 0); err != nil { // not committed yet
		return err
	}
	printLine("held")
	<-c.in
	for name, try := range map[string]func() error{
		"write":    func() error { return f.WriteFile(ctx, "late", []byte("late"), 0o644) },
		"sync":     func() error { return h.Sync(ctx) },
		"truncate": func() error { return f.Truncate(ctx, "file", 0) },
		"rename":   func() error { return f.Rename(ctx, "file", "late", vole.RenameOptions{}) },
		"remove":   func() error { return f.RemoveAll(ctx, "file") },
		"close":    h.Close,
	} {
		err := try()
		printLine("%s %v %v", name, errors.Is(err, vole.ErrClosed), err)
	}
	// Giving back what is lost already must not harm the next holder.
	printLine("detach %v", a.Detach(ctx))
	<-c.in
	return nil
}

// leaveSession makes what a client holds, and waits to be killed.
func (c *client) leaveSession(ctx context.Context) error {
	if _, err := c.vol.Attach(ctx, vole.AttachOptions{Exclusive: true}); err != nil {
		return err
	}
	other, err := c.store.Create(ctx, "other", vole.Spec{})
	if err != nil {
		return err
	}
	f, err := other.FS(ctx)
	if err != nil {
		return err
	}
	if err := f.WriteFile(ctx, "open", pattern(1, 100<<10), 0o644); err != nil {
		return err
	}
	if _, err := f.Open(ctx, "open", vole.OpenOptions{}); err != nil {
		return err
	}
	if err := f.Remove(ctx, "open"); err != nil {
		return err
	}
	_, err = c.store.Build(ctx, "draft", vole.Spec{}, func(v *vole.Volume) error {
		f, err := v.FS(ctx)
		if err != nil {
			return err
		}
		if err := f.WriteFile(ctx, "file", pattern(2, 100<<10), 0o644); err != nil {
			return err
		}
		printLine("made %s", v.ID())
		<-c.in
		return nil
	})
	return err
}

// mustAttach attaches exclusively as soon as that is possible, and says how long it took.
func mustAttach(t *testing.T, v *vole.Volume) (*vole.Attachment, time.Duration) {
	t.Helper()
	begin := time.Now()
	for {
		// On SQLite a process that is stopped in the middle of a transaction stops all
		// that write; the deadline tells that from waiting for the lease.
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		a, err := v.Attach(ctx, vole.AttachOptions{Exclusive: true, Holder: "second"})
		cancel()
		if err == nil {
			return a, time.Since(begin)
		}
		if !errors.Is(err, vole.ErrInUse) || time.Since(begin) > lease+tardiness {
			t.Fatalf("attach: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func leaseOptions(t *testing.T, fresh func(t *testing.T) bucket.Options) bucket.Options {
	opts := fresh(t)
	opts.Lease, opts.Maintain = lease, -1
	return opts
}

// TestStopped: a client that is stopped for longer than its lease has lost its
// attachment, and what it writes when it goes on is refused.
func TestStopped(t *testing.T) {
	t.Parallel()
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			opts := leaseOptions(t, e.fresh)
			s, v, _ := openShared(t, opts)
			c := startClient(t, clientSpec{Do: "hold", Opts: opts})
			if l := c.nextLine(t); l != "held" {
				t.Fatal(l)
			}
			if _, err := v.Attach(ctx, vole.AttachOptions{Exclusive: true}); !errors.Is(err, vole.ErrInUse) {
				t.Fatalf("attached while another is: %v", err)
			}
			// It lives on while it renews.
			time.Sleep(lease + lease/2)
			if _, err := v.Attach(ctx, vole.AttachOptions{Exclusive: true}); !errors.Is(err, vole.ErrInUse) {
				t.Fatalf("attached while another is, later: %v", err)
			}
			c.signal(t, sigStop)
			a, took := mustAttach(t, v)
			if took < lease/3 || took > lease+tardiness {
				t.Errorf("the attachment of a stopped client ended after %v, its lease is %v", took, lease)
			}
			f, err := v.OpenFS(ctx, vole.FSOptions{Attachment: a.Info().ID})
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := f.WriteFile(ctx, "file", []byte("second"), 0o644); err != nil {
				t.Fatal(err)
			}
			c.signal(t, sigContinue)
			readRefusals(t, c)
			if w, err := readTree(ctx, v, "."); err != nil || len(w) != 1 || string(w["file"]) != "second" {
				t.Errorf("there is, %v:\n%v", err, w)
			}
			if err := f.WriteFile(ctx, "file", []byte("second again"), 0o644); err != nil {
				t.Errorf("the second holder writes: %v", err)
			}
			if list, err := v.Attachments(ctx); err != nil || len(list) != 1 || list[0].Holder != "second" {
				t.Errorf("attachments: %v, %v", list, err)
			}
			if err := a.Detach(ctx); err != nil {
				t.Error(err)
			}
			mustAuditClean(t, s, "after a late writer")
			c.killAndWait()
		})
	}
}

// readRefusals reads how the tries of a client that went on ended.
func readRefusals(t *testing.T, c *process) {
	t.Helper()
	c.sendLine(t, "go")
	for range 6 {
		l := c.nextLine(t)
		var name, ok string
		_, err := fmt.Sscan(l, &name, &ok)
		// Closing a handle twice is no error; all else was refused for one reason.
		if err != nil || ok != "true" && name != "close" {
			t.Errorf("a late writer was told: %s", l)
		}
	}
	if l := c.nextLine(t); l != "detach <nil>" {
		t.Error(l)
	}
}

// TestLeft: what a client that is killed held ends within its lease, and goes.
func TestLeft(t *testing.T) {
	t.Parallel()
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			opts := leaseOptions(t, e.fresh)
			s, v, _ := openShared(t, opts)
			c := startClient(t, clientSpec{Do: "leave", Opts: opts})
			var draft string
			if _, err := fmt.Sscanf(c.nextLine(t), "made %s", &draft); err != nil {
				t.Fatal(err)
			}
			c.killAndWait()
			if _, err := v.Attach(ctx, vole.AttachOptions{Exclusive: true}); !errors.Is(err, vole.ErrInUse) {
				t.Errorf("attached before the lease of the other ran out: %v", err)
			}
			other, err := s.Get(ctx, "other")
			if err != nil {
				t.Fatal(err)
			}
			if used := other.Info().Used; used != 100<<10 {
				t.Errorf("with a file that is open and has no name the volume holds %v", used)
			}
			a, took := mustAttach(t, v)
			if took > lease+tardiness {
				t.Errorf("the attachment of a dead client ended after %v, its lease is %v", took, lease)
			}
			if err := a.Detach(ctx); err != nil {
				t.Error(err)
			}
			mustLeaveNoSessions(t, opts)
			if info, err := other.Refresh(ctx); err != nil || info.Used != 0 {
				t.Errorf("a file that nobody has open any more: the volume holds %v, %v", info.Used, err)
			}
			if _, err := s.Get(ctx, draft); !errors.Is(err, vole.ErrNotFound) {
				t.Errorf("the draft: %v", err)
			}
			if _, err := s.Create(ctx, "draft", vole.Spec{}); err != nil {
				t.Errorf("the name of the draft: %v", err)
			}
			mustAuditClean(t, s, "after a dead client")
		})
	}
}

// mustLeaveNoSessions runs maintenance once and sees that no session but the caller's is left.
func mustLeaveNoSessions(t *testing.T, opts bucket.Options) {
	t.Helper()
	ns, err := bucket.Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := ns.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	db := openDatabase(t, opts)
	if n := countRows(t, db, `SELECT count(*) FROM sessions`); n != 1 {
		t.Errorf("%d sessions are left, one is alive", n)
	}
	for _, q := range []string{`SELECT count(*) FROM orphans`, `SELECT count(*) FROM volumes WHERE state <> 'ready'`} {
		if n := countRows(t, db, q); n != 0 {
			t.Errorf("%s: %d", q, n)
		}
	}
}
