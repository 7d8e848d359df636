package bucket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket"
)

// TestMetadata: what a volume holds beside the bytes of its files is counted by every
// change, and bounded as its quota says.
func TestMetadata(t *testing.T) {
	onEngines(t, time.Hour, func(t *testing.T, opts bucket.Options) {
		p := newNSFixture(t, opts)
		ctx := context.Background()
		v := p.newVolumeFixture("v", driver.MiB)
		f := v.fs
		counts := func() (n driver.Metadata) {
			n.Entries = p.queryCount(`SELECT entries FROM volumes WHERE id = $1`, v.vol)
			n.Bytes = p.queryCount(`SELECT metadata FROM volumes WHERE id = $1`, v.vol)
			return n
		}
		for i, step := range []func() error{
			func() error { return f.Setxattr(ctx, "a", "user.a", make([]byte, 1000)) },
			func() error { return f.Setxattr(ctx, "a", "user.a", make([]byte, 10)) },
			func() error { return f.Setxattr(ctx, "a/f", "user.b", make([]byte, 500)) },
			func() error { return f.Removexattr(ctx, "a/f", "user.b") },
			func() error { return f.Copy(ctx, "a", "x/y/copy", driver.CopyOptions{}) },
			func() error { return f.Copy(ctx, "a/f", "a/g", driver.CopyOptions{}) },
			func() error { return f.Rename(ctx, "a/small", "longer name", driver.RenameOptions{}) },
			func() error { return f.Rename(ctx, "longer name", "a/g", driver.RenameOptions{}) },
			func() error { return f.Symlink(ctx, strings.Repeat("t", 1000), "link") },
			func() error { return f.Link(ctx, "link", "x/another") },
			func() error { return f.Remove(ctx, "link") },
			func() error { return f.Remove(ctx, "x/another") },
			func() error { return f.RemoveAll(ctx, "x") },
			func() error { return f.MkdirAll(ctx, "m/n/o", 0o755) },
			func() error { return f.Remove(ctx, "m/n/o") },
			func() error { return v.writeFile("m/n/p/q", []byte("x")) },
			func() error { return v.writeFile("m/n/p/q", []byte("y")) },
		} {
			if err := step(); err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
			if list := p.auditFindings(false); len(list) > 0 {
				t.Fatalf("after step %d: %+v", i, list)
			}
		}
		held := counts()
		info, err := p.b.Create(ctx, "clone", driver.Spec{Kind: driver.KindDir, From: formatTestID(v.vol)})
		p.mustSucceed(err)
		p.mustSucceed(f.Mkdir(ctx, "d", 0o755))
		// Until a bound is reached nothing is refused, and then nothing is done.
		bound := driver.MetadataBounds(driver.MiB)
		for i := 0; ; i++ {
			before := counts()
			err := f.Setxattr(ctx, "d", fmt.Sprintf("user.%03d", i), make([]byte, 60_000))
			if err == nil && i < 16 {
				continue // one inode has no more
			}
			if err == nil || errors.Is(err, driver.ErrNoSpace) {
				err = f.Setxattr(ctx, "a/b", fmt.Sprintf("user.%03d", i), make([]byte, 60_000))
			}
			if err == nil {
				continue
			}
			if !errors.Is(err, driver.ErrQuota) || before.Bytes+60_008 <= bound.Bytes || counts() != before {
				t.Errorf("refused at %+v, now %+v, of %+v: %v", before, counts(), bound, err)
			}
			break
		}
		err = f.Copy(ctx, "a", "big/copy", driver.CopyOptions{})
		if _, serr := f.Lstat(ctx, "big"); !errors.Is(err, driver.ErrQuota) || !errors.Is(serr, driver.ErrNotExist) {
			t.Errorf("a copy over the bound: %v; its parent: %v", err, serr)
		}
		small := driver.Size(1)
		if _, err := p.b.Update(ctx, formatTestID(v.vol), driver.Update{Quota: small}); !errors.Is(err, driver.ErrQuota) {
			t.Errorf("a quota whose bounds are exceeded: %v", err)
		}
		if _, err := f.WriteFile(ctx, "a/f", bytes.NewReader(nil), driver.WriteOptions{}); err != nil {
			t.Errorf("what does not grow: %v", err)
		}
		p.mustSucceed(f.RemoveAll(ctx, "a"))
		p.mustSucceed(f.RemoveAll(ctx, "d"))
		p.mustSucceed(f.Mkdir(ctx, "e", 0o755))
		if got := p.queryCount(`SELECT metadata FROM volumes WHERE id = $1`, parseTestID(info.ID)); got != held.Bytes {
			t.Errorf("the clone has %d bytes, the original had %d", got, held.Bytes)
		}
		p.mustAuditClean()
	})
}

// TestMetadataEntries: there are only so many entries.
func TestMetadataEntries(t *testing.T) {
	p := newNSFixture(t, engines[0].fresh(t))
	v := p.newVolumeFixture("v", driver.MiB)
	ctx := context.Background()
	bound := driver.MetadataBounds(driver.MiB).Entries
	p.exec(`UPDATE volumes SET entries = $2 WHERE id = $1`, v.vol, bound-1)
	p.mustSucceed(v.fs.Mkdir(ctx, "last", 0o755))
	for what, err := range map[string]error{
		"mkdir": v.fs.Mkdir(ctx, "more", 0o755), "link": v.fs.Link(ctx, "h", "more"), "write": v.writeFile("more", nil),
		"parents": v.fs.MkdirAll(ctx, "last/x/y", 0o755), "symlink": v.fs.Symlink(ctx, "t", "more"),
	} {
		if !errors.Is(err, driver.ErrQuota) {
			t.Errorf("%s: %v", what, err)
		}
	}
	p.mustSucceed(v.fs.Rename(ctx, "last", "first", driver.RenameOptions{}))
	p.mustSucceed(v.fs.Remove(ctx, "first"))
	p.mustSucceed(v.writeFile("more", nil))
}
