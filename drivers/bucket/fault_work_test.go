package bucket_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"

	"github.com/volehq/vole"
)

// pattern returns n bytes that only this seed has.
func pattern(seed uint64, n int) []byte {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

// fileTree is what a client's directory holds: files by path, and "@name" for volumes that
// it cloned, with the print of the directory then. Values are not changed.
type fileTree map[string][]byte

// fingerprint is the same for the same files.
func (w fileTree) fingerprint() []byte {
	h := sha256.New()
	for _, p := range slices.Sorted(maps.Keys(w)) {
		if p[0] != '@' {
			fmt.Fprintf(h, "%q %x\n", p, sha256.Sum256(w[p]))
		}
	}
	return h.Sum(nil)
}

func (w fileTree) equal(o fileTree) bool { return maps.EqualFunc(w, o, bytes.Equal) }

func (w fileTree) String() string {
	var b strings.Builder
	for _, p := range slices.Sorted(maps.Keys(w)) {
		fmt.Fprintf(&b, "  %s %d %.4x\n", p, len(w[p]), sha256.Sum256(w[p]))
	}
	return b.String()
}

func (w fileTree) files() []string {
	var list []string
	for p := range w {
		if p[0] != '@' {
			list = append(list, p)
		}
	}
	slices.Sort(list)
	return list
}

// an op is one step of a client.
type op struct {
	Kind      string
	Path, To  string
	Seed      uint64
	Size, Off int
}

// possibleStates returns what the world may be after o was begun: the first is what it was, the
// last what it must be once o has returned.
func (w fileTree) possibleStates(o op) []fileTree {
	old, exists := w[o.Path]
	with := func(data []byte) fileTree {
		n := maps.Clone(w)
		n[o.Path] = data
		return n
	}
	switch o.Kind {
	case "write":
		return []fileTree{w, with(pattern(o.Seed, o.Size))}
	case "handle", "append", "truncate":
		var list []fileTree
		if list = append(list, w); !exists {
			list = append(list, with(nil)) // made by Open
		}
		return append(list, with(o.applyTo(old)))
	case "rename", "copy":
		return []fileTree{w, w.afterMove(o)}
	case "remove", "unlink":
		n := maps.Clone(w)
		maps.DeleteFunc(n, func(p string, _ []byte) bool { return isUnder(p, o.Path) })
		return []fileTree{w, n}
	case "clone":
		n := maps.Clone(w)
		n["@"+o.To] = w.fingerprint()
		return []fileTree{w, n}
	}
	return []fileTree{w} // a draft is nobody's
}

// applyTo returns the file after o.
func (o op) applyTo(old []byte) []byte {
	switch o.Kind {
	case "append":
		return slices.Concat(old, pattern(o.Seed, o.Size))
	case "truncate":
		return append(bytes.Clone(old[:min(o.Size, len(old))]), make([]byte, max(0, o.Size-len(old)))...)
	}
	data := append(bytes.Clone(old), make([]byte, max(0, o.Off+o.Size-len(old)))...)
	copy(data[o.Off:], pattern(o.Seed, o.Size))
	return data
}

func (w fileTree) afterMove(o op) fileTree {
	n := maps.Clone(w)
	for p, data := range w {
		if !isUnder(p, o.Path) {
			continue
		}
		if o.Kind == "rename" {
			delete(n, p)
		}
		n[o.To+strings.TrimPrefix(p, o.Path)] = data
	}
	return n
}

func isUnder(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// chooseOp returns the next step for a world; n is new each time.
func (w fileTree) chooseOp(r *rand.Rand, dir string, n int) op {
	o := op{Seed: r.Uint64(), Size: randomSize(r), Path: path.Join(dir, fmt.Sprintf("f%d", r.IntN(6)))}
	if r.IntN(3) == 0 {
		o.Path = path.Join(dir, fmt.Sprintf("t%d/x%d", r.IntN(3), r.IntN(4)))
	}
	o.Kind = []string{"write", "write", "handle", "append", "append", "truncate", "rename", "copy", "remove", "unlink", "clone", "draft"}[r.IntN(12)]
	list := w.files()
	switch o.Kind {
	case "rename", "copy", "remove", "unlink", "truncate":
		if len(list) == 0 {
			o.Kind = "write"
			return o
		}
	}
	some := func() string { return list[r.IntN(len(list))] }
	switch o.Kind {
	case "handle":
		o.Off, o.Size = r.IntN(100<<10), o.Size+1 // no bytes at all would not move the end
	case "truncate":
		o.Path = some()
	case "unlink":
		o.Path = some()
	case "rename", "copy":
		o.Path, o.To = some(), path.Join(dir, fmt.Sprintf("g%d", r.IntN(4)))
		if up := path.Dir(o.Path); up != dir {
			o.Path, o.To = up, path.Join(dir, fmt.Sprintf("u%d", n)) // a tree
		}
		if o.Path == o.To {
			o.Kind = "write"
		}
	case "remove":
		if o.Path = some(); path.Dir(o.Path) != dir {
			o.Path = path.Dir(o.Path)
		}
	case "clone", "draft":
		o.To = fmt.Sprintf("%s-%d", dir, n)
	}
	return o
}

// randomSize are those of bytes in a row, of one object, and of several.
func randomSize(r *rand.Rand) int {
	switch r.IntN(12) {
	case 0:
		return 0
	case 1:
		return 8<<20 + r.IntN(9<<20)
	case 2, 3, 4:
		return 17<<10 + r.IntN(300<<10)
	}
	return 1 + r.IntN(6000)
}

// workLoop does steps for ever. It says "try" and the step, and "ok" when that has returned.
func (c *client) workLoop(ctx context.Context) error {
	r := rand.New(rand.NewPCG(c.spec.Seed, 1))
	w := fileTree{}
	for n := 0; ; n++ {
		o := w.chooseOp(r, c.spec.Dir, n)
		text, err := json.Marshal(o)
		if err != nil {
			return err
		}
		printLine("try %s", text)
		if err := c.applyOp(ctx, o); err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
		printLine("ok")
		list := w.possibleStates(o)
		w = list[len(list)-1]
	}
}

// applyOp makes one call, or a few of which the last one counts. Some files stay open.
func (c *client) applyOp(ctx context.Context, o op) error {
	switch o.Kind {
	case "write":
		return c.fs.WriteFile(ctx, o.Path, pattern(o.Seed, o.Size), 0o644)
	case "rename":
		return c.fs.Rename(ctx, o.Path, o.To, vole.RenameOptions{})
	case "copy":
		return c.fs.Copy(ctx, o.Path, o.To, vole.CopyOptions{})
	case "remove":
		return c.fs.RemoveAll(ctx, o.Path)
	case "clone":
		_, err := c.vol.Clone(ctx, o.To, vole.Spec{})
		return err
	case "draft":
		v, err := c.store.Create(ctx, o.To, vole.Spec{Draft: true})
		if err != nil {
			return err
		}
		f, err := v.FS(ctx)
		if err != nil {
			return err
		}
		return f.WriteFile(ctx, "draft", pattern(o.Seed, o.Size), 0o644)
	}
	return c.writeByHandle(ctx, o)
}

func (c *client) writeByHandle(ctx context.Context, o op) error {
	if up := path.Dir(o.Path); o.Kind != "unlink" {
		if err := c.fs.MkdirAll(ctx, up, 0o755); err != nil {
			return err
		}
	}
	h, err := c.fs.Open(ctx, o.Path, vole.OpenOptions{Write: true, Create: o.Kind != "unlink", Append: o.Kind == "append"})
	if err != nil {
		return err
	}
	switch o.Kind {
	case "unlink":
		return c.fs.Remove(ctx, o.Path) // open until the client dies
	case "append":
		_, err = h.Append(ctx, pattern(o.Seed, o.Size))
	case "truncate":
		err = h.Truncate(ctx, int64(o.Size))
	case "handle":
		if _, err = h.WriteAt(ctx, pattern(o.Seed, o.Size), int64(o.Off)); err == nil {
			err = h.Sync(ctx)
		}
	}
	if o.Seed%2 == 0 {
		return err // stays open
	}
	return errors.Join(err, h.Close())
}

// readTree reads what is in a directory of a volume.
func readTree(ctx context.Context, v *vole.Volume, dir string) (fileTree, error) {
	f, err := v.FS(ctx)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	w := fileTree{}
	err = fs.WalkDir(f.Std(ctx), dir, func(p string, d fs.DirEntry, err error) error {
		if p == dir && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.Type().IsRegular() {
			w[p], err = f.ReadFile(ctx, p)
		}
		return err
	})
	return w, err
}

// readTreeAndClones is look with the clones that the client of the directory made.
func readTreeAndClones(ctx context.Context, s *vole.Store, dir string) (fileTree, error) {
	v, err := s.Get(ctx, "shared")
	if err != nil {
		return nil, err
	}
	w, err := readTree(ctx, v, dir)
	if err != nil {
		return nil, err
	}
	for v, err := range s.Volumes(ctx, vole.Filter{}) {
		if err != nil {
			return nil, err
		}
		if !strings.HasPrefix(v.Name(), dir+"-") {
			continue
		}
		was, err := readTree(ctx, v, dir)
		if err != nil {
			return nil, err
		}
		w["@"+v.Name()] = was.fingerprint()
	}
	return w, nil
}
