package bucket_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket"
)

// Two organisations with volumes of the same names know nothing of each other.
func TestOrgsApart(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			ctx := t.Context()
			opts := e.fresh(t)
			_, acme := openS3Org(t, opts, "acme")
			spy, evil := openS3Org(t, opts, "evil")
			secret := strings.Repeat("secret", 10_000) // more than is inlined
			v, err := acme.Create(ctx, "data", vole.Spec{Quota: vole.MiB, Labels: vole.Labels{"k": "acme"}})
			if err != nil {
				t.Fatal(err)
			}
			f := createFiles(t, v, secret)
			att, err := v.Attach(ctx, vole.AttachOptions{Holder: "acme's"})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := evil.Get(ctx, "data"); !errors.Is(err, vole.ErrNotFound) {
				t.Errorf("get by name: %v", err)
			}
			own, err := evil.Create(ctx, "data", vole.Spec{})
			if err != nil {
				t.Fatalf("create of the same name: %v", err)
			}
			mustRefuseForeign(ctx, t, spy, v.ID(), own.ID(), att.Info().ID)
			if evilInfo, err := own.Refresh(ctx); err != nil || evilInfo.Used != 0 {
				t.Errorf("%+v, %v", evilInfo, err)
			}
			all, err := evil.List(ctx, vole.Filter{})
			if err != nil || len(all.Volumes) != 1 || all.Volumes[0].ID != own.ID() {
				t.Errorf("%+v, %v", all, err)
			}
			if list, err := evil.Attachments(ctx); err != nil || len(list) != 0 {
				t.Errorf("attachments %+v, %v", list, err)
			}
			if err := own.Update(ctx, vole.Update{Name: v.ID()}); err != nil {
				t.Errorf("a name that is another's id tells of it: %v", err)
			}
			got, err := f.ReadFile(ctx, "f")
			if err != nil || string(got) != secret {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			info, err := v.Refresh(ctx)
			if err != nil || info.Name != "data" || info.Labels["k"] != "acme" {
				t.Errorf("%+v, %v", info, err)
			}
		})
	}
}

func createFiles(t *testing.T, v *vole.Volume, data string) *vole.FS {
	t.Helper()
	f, err := v.FS(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := f.WriteFile(t.Context(), "f", []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
	return f
}

// mustRefuseForeign makes every call that takes an id with those of another organisation.
func mustRefuseForeign(ctx context.Context, t *testing.T, b *bucket.Backend, theirs, own, attachment string) {
	t.Helper()
	calls := map[string]func() error{
		"get":    func() error { _, err := b.Get(ctx, driver.ByID(theirs)); return err },
		"update": func() error { _, err := b.Update(ctx, theirs, driver.Update{Name: "stolen"}); return err },
		"label": func() error {
			_, err := b.Update(ctx, theirs, driver.Update{SetLabels: driver.Labels{"k": "evil"}})
			return err
		},
		"remove":  func() error { _, err := b.Remove(ctx, driver.ByID(theirs)); return err },
		"measure": func() error { _, err := b.Measure(ctx, theirs); return err },
		"open":    func() error { _, err := b.OpenFS(ctx, theirs, driver.FSOptions{}); return err },
		"attach": func() error {
			_, err := b.Attach(ctx, theirs, driver.AttachOptions{Holder: "evil"})
			return err
		},
		"attachments": func() error { _, err := b.Attachments(ctx, theirs); return err },
		"clone": func() error {
			_, err := b.Create(ctx, "cloned", driver.Spec{Kind: driver.KindDir, From: theirs})
			return err
		},
	}
	for what, call := range calls {
		if err := call(); !errors.Is(err, driver.ErrNotFound) {
			t.Errorf("%s of another organisation's volume: %v", what, err)
		}
	}
	if _, err := b.OpenFS(ctx, own, driver.FSOptions{Attachment: attachment}); !errors.Is(err, driver.ErrClosed) {
		t.Errorf("open under another's attachment: %v", err)
	}
}

// What a namespace counts is there for Prometheus.
func TestMetrics(t *testing.T) {
	opts := engines[0].fresh(t)
	reg := prometheus.NewRegistry()
	opts.Metrics = reg
	_, s := openS3Org(t, opts, "acme")
	v, err := s.Create(t.Context(), "v", vole.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	data := strings.Repeat("x", 100_000)
	f := createFiles(t, v, data)
	if _, err := f.ReadFile(t.Context(), "f"); err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, fam := range families {
		for _, m := range fam.GetMetric() {
			got[fam.GetName()] += m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	for name, least := range map[string]float64{
		"vole_bucket_put_bytes_total": 100_000, "vole_bucket_get_bytes_total": 100_000,
		"vole_bucket_put_seconds": 1, "vole_bucket_get_seconds": 1, "vole_bucket_commit_seconds": 1, "vole_bucket_operation_seconds": 4, "vole_bucket_query_seconds": 3,
	} {
		if got[name] < least {
			t.Errorf("%s is %v, want %v at least", name, got[name], least)
		}
	}
}
