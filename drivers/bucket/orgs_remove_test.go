package bucket_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket"
)

// TestRemoveOrg shows that an organisation goes with all that it has, and that its name is free
// for another one that has nothing of it.
func TestRemoveOrg(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			ctx := t.Context()
			opts := e.fresh(t)
			opts.Grace, opts.Maintain = time.Millisecond, -1
			ns, err := bucket.Open(ctx, opts)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = ns.Close() })
			if err := ns.CreateOrg(ctx, "acme"); err != nil {
				t.Fatal(err)
			}
			b, err := ns.Org(ctx, "acme")
			if err != nil {
				t.Fatal(err)
			}
			store := vole.New(b)
			v, err := store.Create(ctx, "v", vole.Spec{})
			if err != nil {
				t.Fatal(err)
			}
			createFiles(t, v, strings.Repeat("x", 100<<10))
			if _, err := ns.Export(ctx, bucket.ExportOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := ns.RemoveOrg(ctx, "acme", false); !errors.Is(err, driver.ErrNotEmpty) {
				t.Errorf("with a volume: %v", err)
			}
			att, err := v.Attach(ctx, vole.AttachOptions{Holder: "me"})
			if err != nil {
				t.Fatal(err)
			}
			if err := ns.RemoveOrg(ctx, "acme", true); !errors.Is(err, driver.ErrInUse) {
				t.Errorf("with an attached volume: %v", err)
			}
			if err := att.Detach(ctx); err != nil {
				t.Fatal(err)
			}
			if err := ns.RemoveOrg(ctx, "acme", true); err != nil {
				t.Fatal(err)
			}
			if _, err := store.Create(ctx, "late", vole.Spec{}); !errors.Is(err, driver.ErrNotFound) {
				t.Errorf("a volume of an organisation that is gone: %v", err)
			}
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := ns.Org(ctx, "acme"); !errors.Is(err, driver.ErrNoSuch) {
				t.Errorf("open after removal: %v", err)
			}
			if err := ns.CreateOrg(ctx, "acme"); err != nil {
				t.Errorf("the same name again: %v", err)
			}
			for range 3 {
				if err := ns.Maintain(ctx); err != nil {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Millisecond)
			}
			if names, err := ns.Orgs(ctx); err != nil || len(names) != 1 || names[0] != "acme" {
				t.Errorf("%q, %v", names, err)
			}
			err = ns.Audit(ctx, driver.CheckOptions{}, func(f driver.Finding) error { t.Errorf("%+v", f); return nil })
			if err != nil {
				t.Error(err)
			}
		})
	}
}
