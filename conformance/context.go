package conformance

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole"
)

var contextTests = []test{
	{"Store", testCancelledStore},
	{"Volume", testCancelledVolume},
	{"FS", testCancelledFS},
	{"File", testCancelledFile},
	{"Detach", testCancelledDetach},
	{"WhileWriting", testCancelWhileWriting},
	{"WhileReading", testCancelWhileReading},
	{"WhileCopying", testCancelWhileCopying},
}

func cancelled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

func expired(t *testing.T) context.Context {
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	t.Cleanup(cancel)
	return ctx
}

func testCancelledStore(t *testing.T, e *env) {
	v := e.create(t, "vol")
	for _, o := range storeOps {
		wantErr(t, o.name, o.run(cancelled(t), e.store, e.h.Spec), context.Canceled)
		wantErr(t, o.name, o.run(expired(t), e.store, e.h.Spec), context.DeadlineExceeded)
	}
	all, err := list(t.Context(), e.store, vole.Filter{})
	must(t, "list", err)
	if len(all) != 1 {
		t.Fatalf("volumes after cancelled calls: %v", names(all))
	}
	if d := sameInfo(v.Info(), all[0]); d != "" {
		t.Errorf("cancelled calls changed %s", d)
	}
}

func testCancelledVolume(t *testing.T, e *env) {
	v := e.create(t, "vol")
	before := v.Info()
	for _, o := range volumeOps {
		wantErrOf(t, o.name, o.run(cancelled(t), v), context.Canceled, o.op, "vol")
		wantErrOf(t, o.name, o.run(expired(t), v), context.DeadlineExceeded, o.op, "vol")
	}
	_, err := v.Attachments(cancelled(t))
	wantErr(t, "attachments", err, context.Canceled)
	info, err := v.Refresh(t.Context())
	must(t, "refresh", err)
	if d := sameInfo(before, info); d != "" {
		t.Errorf("cancelled calls changed %s", d)
	}
	list, err := v.Attachments(t.Context())
	must(t, "attachments", err)
	equal(t, "attachments", len(list), 0)
}

func testCancelledFS(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	before := f.tree()
	for _, o := range e.pathOps() {
		wantErrOf(t, o.name, o.run(cancelled(t), f.FS, o.at), context.Canceled, o.op, "vol")
		wantErr(t, o.name, o.run(expired(t), f.FS, o.at), context.DeadlineExceeded)
	}
	_, err := f.Statfs(cancelled(t))
	wantErr(t, "Statfs", err, context.Canceled)
	wantErr(t, "Sync", f.Sync(cancelled(t)), context.Canceled)
	f.unchanged("cancelled calls", before)
}

func testCancelledFile(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	before := f.tree()
	h := f.open("file", vole.OpenOptions{Write: true})
	for _, o := range handleOps {
		wantErrOf(t, o.name, o.run(cancelled(t), h), context.Canceled, errorOp(o.run(cancelled(t), h)), "vol")
	}
	f.unchanged("cancelled calls", before)
	for _, opts := range []vole.DirOptions{{}, {Sorted: true}, {NamesOnly: true}} {
		d, err := f.OpenDir(f.ctx, "full", opts)
		must(t, "open dir", err)
		_, err = d.Read(cancelled(t), 1)
		wantErr(t, "Dir.Read", err, context.Canceled)
		list, err := d.Read(f.ctx, 1)
		if err != nil || len(list) != 1 {
			t.Errorf("a cancelled read took entries away: %v, %v", list, err)
		}
		ok(t, "close", d.Close())
	}
	for _, o := range handleOps { // the handle is none the worse
		err := o.run(f.ctx, h)
		if o.name == "NextData" && err == io.EOF {
			continue // the only byte has been punched out
		}
		ok(t, o.name, err)
	}
}

func errorOp(err error) string {
	if e := (*vole.Error)(nil); errors.As(err, &e) {
		return e.Op
	}
	return ""
}

// A detach under a cancelled context detaches or says that it did not.
func testCancelledDetach(t *testing.T, e *env) {
	v := e.create(t, "vol")
	a := attach(t, v, vole.AttachOptions{Holder: "h"})
	err := a.Detach(cancelled(t))
	wantAny(t, "detach", err, nil, context.Canceled)
	list, err2 := v.Attachments(t.Context())
	must(t, "attachments", err2)
	equal(t, "attached after detach", len(list) == 1, err != nil)
	detach(t, a)
	ok(t, "remove", v.Remove(t.Context()))
}

// cancelAfter yields data without end and cancels after n bytes.
type cancelAfter struct {
	n      int
	cancel func()
}

func (r *cancelAfter) Read(p []byte) (int, error) {
	if r.n -= len(p); r.n < 0 {
		r.cancel()
	}
	return copy(p, strings.Repeat("x", len(p))), nil
}

func testCancelWhileWriting(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	before := f.tree()
	for _, p := range []string{"file", "new", "new/parents/f"} {
		ctx, cancel := context.WithCancel(f.ctx)
		err := within(t, func() error {
			_, err := f.WriteFrom(ctx, p, &cancelAfter{5 << 20, cancel}, vole.WriteOptions{})
			return err
		})
		cancel()
		wantErr(t, "write to "+p, err, context.Canceled)
		f.unchanged("a write that was cancelled", before)
	}
	f.used("after cancelled writes", int64(len("content")+len("inner")))
}

func testCancelWhileReading(t *testing.T, e *env) {
	f := e.files(t)
	f.write("f", pattern(1, 2<<20))
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	r, err := f.NewReader(ctx, "f", 0, -1)
	must(t, "open", err)
	defer r.Close()
	_, err = io.ReadFull(r, make([]byte, 1000))
	must(t, "read", err)
	cancel()
	_, err = io.Copy(io.Discard, r)
	wantErr(t, "read on", err, context.Canceled)
	ok(t, "close", r.Close())
}

// A copy that is cancelled leaves the whole of it or nothing.
func testCancelWhileCopying(t *testing.T, e *env) {
	f := e.files(t)
	const n = 120
	for i := range n {
		f.write("src/"+string(rune('a'+i%26))+"/"+strings.Repeat("f", 1+i/26), pattern(i, 20_000))
	}
	before := f.tree()
	for i := range 6 {
		ctx, cancel := context.WithTimeout(f.ctx, time.Duration(i*i)*time.Millisecond)
		err := f.Copy(ctx, "src", "dst", vole.CopyOptions{})
		cancel()
		if err == nil {
			must(t, "remove", f.RemoveAll(f.ctx, "dst"))
		} else {
			wantErr(t, "copy", err, context.DeadlineExceeded)
		}
		f.unchanged("a copy that was cancelled", before)
		f.used("after the copy", n*20_000)
	}
}
