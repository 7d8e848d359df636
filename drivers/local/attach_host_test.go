//go:build unix

package local

import (
	"testing"

	"github.com/volehq/vole/driver"
)

// TestAttachForAnother shows the host and process of the client that a server attaches for, and
// not those of the server.
func TestAttachForAnother(t *testing.T) {
	b, err := Open(t.Context(), t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	v, err := b.Create(t.Context(), "v", driver.Spec{Kind: driver.KindDir})
	if err != nil {
		t.Fatal(err)
	}
	a, err := b.Attach(t.Context(), v.ID, driver.AttachOptions{Holder: "client", Host: "elsewhere", PID: 7})
	if err != nil {
		t.Fatal(err)
	}
	if i := a.Info(); i.Host != "elsewhere" || i.PID != 7 || !i.Started.IsZero() {
		t.Errorf("%+v", i)
	}
	if err := a.Detach(t.Context()); err != nil {
		t.Error(err)
	}
}
