package conformance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/volehq/vole"
)

var attachTests = []test{
	{"Info", testAttachInfo},
	{"DefaultHolder", testAttachDefaultHolder},
	{"List", testAttachList},
	{"RemoveRefused", testAttachRemove},
	{"SharedDir", testAttachSharedDir},
	{"DiskExclusive", testAttachDisk},
	{"DetachTwice", testDetachTwice},
	{"EndWithClose", testAttachClose},
	{"OtherStore", testAttachOtherStore},
	{"RenamedVolume", testAttachRenamed},
	{"RemoveRace", testAttachRemoveRace},
}

func attach(t *testing.T, v *vole.Volume, opts vole.AttachOptions) *vole.Attachment {
	t.Helper()
	a, err := v.Attach(t.Context(), opts)
	if err != nil {
		t.Fatalf("attach %s as %s: %v", v.Name(), opts.Holder, err)
	}
	t.Cleanup(func() { a.Detach(context.Background()) })
	return a
}

func detach(t *testing.T, a *vole.Attachment) {
	t.Helper()
	must(t, "detach", a.Detach(t.Context()))
}

func testAttachInfo(t *testing.T, e *env) {
	v := e.create(t, "v")
	before := time.Now()
	a := attach(t, v, vole.AttachOptions{Holder: "sandbox-7 (tst)", ReadOnly: true})
	info := a.Info()
	equal(t, "volume's id", info.VolumeID, v.ID())
	equal(t, "volume's name", info.Volume, "v")
	equal(t, "holder", info.Holder, "sandbox-7 (tst)")
	equal(t, "read-only", info.ReadOnly, true)
	equal(t, "host path", info.HostPath, false)
	equal(t, "pid", info.PID, os.Getpid())
	host, err := os.Hostname()
	must(t, "hostname", err)
	equal(t, "host", info.Host, host)
	equal(t, "volume", a.Volume().ID(), v.ID())
	if info.ID == "" {
		t.Error("the attachment has no id")
	}
	if info.Since.Before(before.Add(-time.Second)) || info.Since.After(time.Now().Add(time.Second)) {
		t.Errorf("since %v, want about %v", info.Since, before)
	}
	if info.Started.After(before.Add(time.Second)) || before.Sub(info.Started) > 24*time.Hour {
		t.Errorf("started %v, want when this process did", info.Started)
	}
	if info.Since.Location() != time.UTC || info.Started.Location() != time.UTC {
		t.Errorf("times %v and %v are not UTC", info.Since, info.Started)
	}
}

func testAttachDefaultHolder(t *testing.T, e *env) {
	a := attach(t, e.create(t, "v"), vole.AttachOptions{})
	if h := a.Info().Holder; !strings.Contains(h, fmt.Sprint(os.Getpid())) {
		t.Errorf("default holder %q does not tell the pid %d", h, os.Getpid())
	}
}

func holders(list []vole.AttachmentInfo) string {
	var s []string
	for _, a := range list {
		s = append(s, a.Holder)
	}
	return strings.Join(s, " ")
}

func testAttachList(t *testing.T, e *env) {
	ctx := t.Context()
	v, w := e.create(t, "v"), e.create(t, "w")
	attach(t, v, vole.AttachOptions{Holder: "one", ReadOnly: true})
	two := attach(t, v, vole.AttachOptions{Holder: "two", ReadOnly: true})
	attach(t, w, vole.AttachOptions{Holder: "three"})
	attach(t, v, vole.AttachOptions{Holder: "four", ReadOnly: true})
	of := func(v *vole.Volume) string {
		t.Helper()
		list, err := v.Attachments(ctx)
		must(t, "attachments", err)
		return holders(list)
	}
	all := func() string {
		t.Helper()
		list, err := e.store.Attachments(ctx)
		must(t, "attachments", err)
		return holders(list)
	}
	equal(t, "holders of v", of(v), "one two four")
	equal(t, "holders of w", of(w), "three")
	equal(t, "holders", all(), "one two three four")
	list, err := v.Attachments(ctx)
	must(t, "attachments", err)
	if got, want := fmt.Sprintf("%+v", list[1]), fmt.Sprintf("%+v", two.Info()); got != want {
		t.Errorf("listed as %s, want %s", got, want)
	}
	detach(t, two)
	equal(t, "holders of v", of(v), "one four")
	equal(t, "holders", all(), "one three four")
}

func testAttachRemove(t *testing.T, e *env) {
	ctx := t.Context()
	v := e.create(t, "v")
	f := e.openFiles(t, v, vole.FSOptions{})
	f.write("f", "data")
	ok(t, "close", f.Close())
	for _, ro := range []bool{false, true} {
		a := attach(t, v, vole.AttachOptions{Holder: "the-holder", ReadOnly: ro})
		for what, err := range map[string]error{
			"by name":   e.store.Remove(ctx, "v"),
			"by id":     e.store.Remove(ctx, v.ID()),
			"by handle": v.Remove(ctx),
		} {
			wantErr(t, "remove "+what, err, vole.ErrInUse)
			if err != nil && !strings.Contains(err.Error(), "the-holder") {
				t.Errorf("error %q does not name the holder", err)
			}
		}
		detach(t, a)
	}
	e.openFiles(t, v, vole.FSOptions{}).holds("f", "data")
	ok(t, "remove after detach", v.Remove(ctx))
	_, err := v.Attach(ctx, vole.AttachOptions{})
	wantErr(t, "attach a volume that is gone", err, vole.ErrNotFound)
}

func testAttachSharedDir(t *testing.T, e *env) {
	need(t, e.caps.Dir, "dir volumes")
	v := e.createSpec(t, "v", vole.Spec{})
	attach(t, v, vole.AttachOptions{Holder: "writer1"})
	attach(t, v, vole.AttachOptions{Holder: "writer2"})
	attach(t, v, vole.AttachOptions{Holder: "reader", ReadOnly: true})
	e.openFiles(t, v, vole.FSOptions{}).write("f", "and the FS as well")
	list, err := v.Attachments(t.Context())
	must(t, "attachments", err)
	equal(t, "attachments", len(list), 3)
}

func testAttachDisk(t *testing.T, e *env) {
	if e.h.Spec.Kind != vole.KindDisk {
		t.Skip("for disk volumes")
	}
	ctx := t.Context()
	v := e.create(t, "v")
	refused := func(what string, opts vole.AttachOptions, holder string) {
		t.Helper()
		_, err := v.Attach(ctx, opts)
		wantErr(t, what, err, vole.ErrInUse)
		if err != nil && !strings.Contains(err.Error(), holder) {
			t.Errorf("%s: error %q does not name %s", what, err, holder)
		}
	}
	w := attach(t, v, vole.AttachOptions{Holder: "the-writer"})
	refused("a second writer", vole.AttachOptions{Holder: "x"}, "the-writer")
	refused("a reader beside a writer", vole.AttachOptions{Holder: "x", ReadOnly: true}, "the-writer")
	_, err := v.FS(ctx)
	wantErr(t, "open for writing beside a writer", err, vole.ErrInUse)
	detach(t, w)

	attach(t, v, vole.AttachOptions{Holder: "reader1", ReadOnly: true})
	attach(t, v, vole.AttachOptions{Holder: "reader2", ReadOnly: true})
	refused("a writer beside readers", vole.AttachOptions{Holder: "x"}, "reader")
	f, err := v.OpenFS(ctx, vole.FSOptions{ReadOnly: true})
	must(t, "open for reading beside readers", err)
	ok(t, "close", f.Close())
}

func testDetachTwice(t *testing.T, e *env) {
	v := e.create(t, "v")
	a := attach(t, v, vole.AttachOptions{Holder: "a", ReadOnly: true})
	b := attach(t, v, vole.AttachOptions{Holder: "b", ReadOnly: true})
	detach(t, a)
	detach(t, a)
	ok(t, "detach from many goroutines", errors.Join(race(4, func(int) error { return b.Detach(t.Context()) })...))
	list, err := v.Attachments(t.Context())
	must(t, "attachments", err)
	equal(t, "attachments", len(list), 0)
}

// Closing a store ends its own attachments only.
func testAttachClose(t *testing.T, e *env) {
	ctx := t.Context()
	other := e.another(t)
	v := e.create(t, "v")
	attach(t, v, vole.AttachOptions{Holder: "here", ReadOnly: true})
	there, err := other.Get(ctx, "v")
	must(t, "get", err)
	gone := attach(t, there, vole.AttachOptions{Holder: "there", ReadOnly: true})
	must(t, "close", other.Close())
	list, err := v.Attachments(ctx)
	must(t, "attachments", err)
	equal(t, "holders", holders(list), "here")
	ok(t, "detach after close", gone.Detach(ctx))
}

func testAttachOtherStore(t *testing.T, e *env) {
	ctx := t.Context()
	other := e.another(t)
	v := e.create(t, "v")
	a := attach(t, v, vole.AttachOptions{Holder: "the-first-store"})
	err := other.Remove(ctx, "v")
	wantErr(t, "remove by another store", err, vole.ErrInUse)
	if err != nil && !strings.Contains(err.Error(), "the-first-store") {
		t.Errorf("error %q does not name the holder", err)
	}
	list, err := other.Attachments(ctx)
	must(t, "attachments", err)
	equal(t, "holders", holders(list), "the-first-store")
	detach(t, a)
	ok(t, "remove by another store", other.Remove(ctx, "v"))
}

func testAttachRenamed(t *testing.T, e *env) {
	ctx := t.Context()
	v := e.create(t, "v")
	a := attach(t, v, vole.AttachOptions{Holder: "h"})
	must(t, "rename", v.Update(ctx, vole.Update{Name: "w"}))
	list, err := e.store.Attachments(ctx)
	must(t, "attachments", err)
	if len(list) != 1 || list[0].Volume != "w" {
		t.Errorf("attachments of a renamed volume: %+v", list)
	}
	wantErr(t, "remove by the new name", e.store.Remove(ctx, "w"), vole.ErrInUse)
	detach(t, a)
}

// While some goroutines attach and detach and others remove, an attached volume exists for
// as long as the attachment.
func testAttachRemoveRace(t *testing.T, e *env) {
	ctx := t.Context()
	for round := range 6 {
		v := e.createSpec(t, fmt.Sprint("v", round), e.cheapest())
		var removed atomic.Bool
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				for !removed.Load() {
					attachOnce(t, e, v, fmt.Sprint("holder", i))
				}
			})
		}
		gone := false
		for tries := 0; tries < 100 && !gone; tries++ {
			err := v.Remove(ctx)
			if gone = err == nil; gone {
				break
			}
			wantErr(t, "remove", err, vole.ErrInUse)
			_, err = v.Refresh(ctx)
			ok(t, "refresh after a refused remove", err)
		}
		removed.Store(true)
		wg.Wait()
		if !gone {
			must(t, "remove when all have detached", v.Remove(ctx))
		}
		_, err := v.Attach(ctx, vole.AttachOptions{})
		wantErr(t, "attach after remove", err, vole.ErrNotFound)
	}
}

func attachOnce(t *testing.T, e *env, v *vole.Volume, holder string) {
	a, err := v.Attach(t.Context(), vole.AttachOptions{Holder: holder, ReadOnly: true})
	if err != nil {
		if !errors.Is(err, vole.ErrNotFound) {
			t.Errorf("attach: %v", err)
		}
		return
	}
	if _, err := e.store.Get(t.Context(), v.ID()); err != nil {
		t.Errorf("an attached volume is gone: %v", err)
	}
	if err := a.Detach(t.Context()); err != nil {
		t.Errorf("detach: %v", err)
	}
}
