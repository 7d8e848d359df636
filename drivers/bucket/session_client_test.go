package bucket_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket"
)

// A client's session outlives the server that began it, and is renewed through another.
func TestClientSession(t *testing.T) {
	t.Parallel()
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			testClientSession(t, e.fresh(t))
		})
	}
}

func testClientSession(t *testing.T, opts bucket.Options) {
	opts.Maintain = -1
	ctx := t.Context()
	open := func() *bucket.Namespace {
		ns, err := bucket.Open(ctx, opts)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ns.Close() })
		return ns
	}
	ok := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	one, two := open(), open()
	ok("org", one.CreateOrg(ctx, "acme"))
	ok("org", one.CreateOrg(ctx, "other"))
	const lease = 2 * time.Second
	id := uuid.NewString()
	a, err := one.Client(ctx, "acme", id, "me", lease, false)
	ok("begin", err)
	v, err := a.Create(ctx, "v", driver.Spec{Kind: driver.KindDir})
	ok("create", err)
	draft, err := a.Create(ctx, "draft", driver.Spec{Kind: driver.KindDir, Draft: true})
	ok("create a draft", err)
	att, err := a.Attach(ctx, v.ID, driver.AttachOptions{Holder: "far", Exclusive: true, Host: "elsewhere", PID: 7})
	ok("attach", err)
	if i := att.Info(); i.Host != "elsewhere" || i.PID != 7 {
		t.Errorf("attachment %+v", i)
	}
	ok("leave", a.Leave())

	if _, err := two.Client(ctx, "other", id, "me", lease, true); !errors.Is(err, driver.ErrNotFound) {
		t.Errorf("resumed by another organisation: %v", err)
	}
	if _, err := two.Client(ctx, "acme", id, "somebody else", lease, true); !errors.Is(err, driver.ErrNotFound) {
		t.Errorf("resumed by another owner: %v", err)
	}
	b, err := two.Client(ctx, "acme", id, "me", lease, true)
	ok("resume", err)
	for range 6 {
		time.Sleep(lease / 4)
		ok("renew", b.Renew(ctx))
	}
	list, err := b.Attachments(ctx, v.ID)
	ok("attachments", err)
	if len(list) != 1 || list[0].ID != att.Info().ID {
		t.Errorf("attachments after %v: %+v", 6*lease/4, list)
	}
	if _, err := b.Remove(ctx, driver.ByID(v.ID)); !errors.Is(err, driver.ErrInUse) {
		t.Errorf("remove while attached: %v", err)
	}
	_, err = b.Update(ctx, draft.ID, driver.Update{Publish: true})
	ok("publish the draft of the session elsewhere", err)
	ok("detach", b.Detach(ctx, att.Info().ID))
	_, err = b.Attach(ctx, v.ID, driver.AttachOptions{Holder: "next"})
	ok("attach again", err)
	ok("leave", b.Leave())
	time.Sleep(lease + lease/2)
	if _, err := two.Client(ctx, "acme", id, "me", lease, true); !errors.Is(err, driver.ErrNotFound) {
		t.Errorf("resumed after its lease: %v", err)
	}
	c, err := two.Client(ctx, "acme", uuid.NewString(), "me", lease, false)
	ok("begin another", err)
	_, err = c.Remove(ctx, driver.ByID(v.ID))
	ok("remove what a session that ended had attached", err)
	ok("close", c.Close())
	if err := c.Renew(ctx); !errors.Is(err, driver.ErrClosed) {
		t.Errorf("renew after close: %v", err)
	}
}
