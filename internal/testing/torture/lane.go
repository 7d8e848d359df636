package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/volehq/vole"
)

// A lane is one sequence of operations on volumes that no other lane touches, so that
// its record alone says what the home must hold. Each child runs some lanes; when it
// is killed, its successor goes on where they stopped.
const (
	lanesPerChild = 4
	namesPerLane  = 4
	pathsPerVol   = 5
	sharedNames   = 5 // that all lanes use, for which the record cannot say as much
	labelKey      = "tag"
)

func laneName(slot, lane int) string    { return fmt.Sprintf("s%dl%d", slot, lane) }
func laneVol(lane string, i int) string { return fmt.Sprintf("%s-%d", lane, i) }
func sharedVol(i int) string            { return fmt.Sprintf("shared-%d", i) }

// filePath is the i-th file of a volume; the last lies in a directory.
func filePath(i int) string {
	if i == pathsPerVol-1 {
		return "dir/file"
	}
	return fmt.Sprintf("file%d", i)
}

// content is what a file holds whose last writer used tag: its tag in the first line,
// then up to 64 KiB that follow from it. Some files are larger, to be killed in the middle.
func content(tag int64) []byte {
	r := rand.New(rand.NewPCG(uint64(tag), 1))
	size := r.IntN(64 << 10)
	if r.IntN(20) == 0 {
		size = 2 << 20
	}
	buf := fmt.Appendf(nil, "%d\n", tag)
	for len(buf) < size {
		buf = binary.LittleEndian.AppendUint64(buf, r.Uint64())
	}
	return buf
}

// tagOf returns the tag of a file's content, and an error when it is not whole.
func tagOf(data []byte) (int64, error) {
	line, _, _ := bytes.Cut(data, []byte("\n"))
	tag, err := strconv.ParseInt(string(line), 10, 64)
	if err != nil || !bytes.Equal(data, content(tag)) {
		return 0, fmt.Errorf("torn content of %d bytes, beginning %q", len(data), data[:min(len(data), 24)])
	}
	return tag, nil
}

// laneRunner runs one lane.
type laneRunner struct {
	store *vole.Store
	out   *journal
	name  string
	rng   *rand.Rand
	vols  map[string]*vole.Volume
	tag   int64
}

func lanesChild(ctx context.Context, c config) error {
	out := &journal{w: os.Stdout}
	store, err := vole.Open(ctx, vole.Options{Home: c.home})
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	errs := make(chan error)
	for i := range lanesPerChild {
		l := &laneRunner{
			store: store, out: out, name: laneName(c.slot, i),
			rng: rand.New(rand.NewPCG(c.seed, uint64(i))), vols: map[string]*vole.Volume{},
			tag: now(), // greater than any that a predecessor used
		}
		go func() { errs <- l.run(ctx) }()
	}
	return <-errs // lanes only end by an error
}

func (l *laneRunner) run(ctx context.Context) error {
	for v, err := range l.store.Volumes(ctx, vole.Filter{}) {
		if err != nil {
			return err
		}
		if strings.HasPrefix(v.Name(), l.name+"-") {
			l.vols[v.Name()] = v
		}
	}
	for {
		if err := l.step(ctx); err != nil {
			return fmt.Errorf("lane %s: %w", l.name, err)
		}
	}
}

// do runs an operation between its two records. An error ends the lane: on its own
// volumes nothing may fail.
func (l *laneRunner) do(r record, fn func() (id string, err error)) error {
	r.Lane = l.name
	l.out.write(r)
	id, err := fn()
	r.Done = true
	if id != "" {
		r.ID = id
	}
	if err != nil {
		r.Err, r.Text = classOf(err), err.Error()
	}
	l.out.write(r)
	return err
}

func (l *laneRunner) nextTag() int64 { l.tag++; return l.tag }

// step runs one random operation.
func (l *laneRunner) step(ctx context.Context) error {
	if l.rng.IntN(6) == 0 {
		l.shared(ctx)
		return nil
	}
	name := laneVol(l.name, l.rng.IntN(namesPerLane))
	v := l.vols[name]
	if v == nil {
		return l.create(ctx, name)
	}
	switch n := l.rng.IntN(20); {
	case n < 3:
		return l.do(record{Op: "remove", Vol: name, ID: v.ID()}, func() (string, error) {
			delete(l.vols, name)
			return "", l.store.Remove(ctx, name)
		})
	case n < 6:
		return l.rename(ctx, v)
	case n < 8:
		tag := l.nextTag()
		return l.do(record{Op: "update", Vol: name, ID: v.ID(), Tag: tag}, func() (string, error) {
			return "", v.Update(ctx, vole.Update{SetLabels: vole.Labels{labelKey: strconv.FormatInt(tag, 10)}})
		})
	case n < 11:
		return l.attach(ctx, v)
	default:
		return l.files(ctx, v)
	}
}

func (l *laneRunner) create(ctx context.Context, name string) error {
	tag := l.nextTag()
	spec := vole.Spec{Labels: vole.Labels{labelKey: strconv.FormatInt(tag, 10)}}
	if l.rng.IntN(2) == 0 {
		spec.Quota = vole.GiB
	}
	return l.do(record{Op: "create", Vol: name, Tag: tag}, func() (string, error) {
		v, err := l.store.Create(ctx, name, spec)
		if err != nil {
			return "", err
		}
		l.vols[name] = v
		return v.ID(), nil
	})
}

func (l *laneRunner) rename(ctx context.Context, v *vole.Volume) error {
	from := v.Name()
	for i := range namesPerLane {
		to := laneVol(l.name, i)
		if l.vols[to] != nil {
			continue
		}
		return l.do(record{Op: "rename", Vol: from, To: to, ID: v.ID()}, func() (string, error) {
			delete(l.vols, from)
			l.vols[to] = v
			return "", v.Update(ctx, vole.Update{Name: to})
		})
	}
	return nil
}

// attach takes and gives back a volume, and tries to remove it in between.
func (l *laneRunner) attach(ctx context.Context, v *vole.Volume) error {
	opts := vole.AttachOptions{Holder: "lane " + l.name, ReadOnly: l.rng.IntN(2) == 0}
	opts.HostPath = opts.ReadOnly || v.Info().Quota == 0
	return l.do(record{Op: "attach", Vol: v.Name(), ID: v.ID()}, func() (string, error) {
		att, err := v.Attach(ctx, opts)
		if err != nil {
			return "", err
		}
		time.Sleep(time.Duration(l.rng.IntN(int(3 * time.Millisecond))))
		if err := v.Remove(ctx); !errors.Is(err, vole.ErrInUse) || !strings.Contains(err.Error(), opts.Holder) {
			return "", fmt.Errorf("removing what is attached: %v; want in use, with the holder's name", err)
		}
		return "", att.Detach(ctx)
	})
}

// files runs one to three operations on a volume's files.
func (l *laneRunner) files(ctx context.Context, v *vole.Volume) error {
	f, err := v.FS(ctx)
	if err != nil {
		return err
	}
	for range 1 + l.rng.IntN(3) {
		p, to := filePath(l.rng.IntN(pathsPerVol)), filePath(l.rng.IntN(pathsPerVol-1))
		r := record{Vol: v.Name(), ID: v.ID(), Path: p}
		var fn func() error
		switch l.rng.IntN(6) {
		case 0:
			r.Op = "delete"
			fn = func() error { return f.RemoveAll(ctx, p) }
		case 1:
			r.Op, r.To = "move", to
			fn = func() error { return ignoreMissing(f.Rename(ctx, p, to, vole.RenameOptions{})) }
		case 2:
			r.Op, r.To = "copy", to
			fn = func() error { return ignoreMissing(f.Copy(ctx, p, to, vole.CopyOptions{})) }
		default:
			r.Op, r.Tag = "write", l.nextTag()
			fn = func() error { return f.WriteFile(ctx, p, content(r.Tag), 0o600) }
		}
		if err := l.do(r, func() (string, error) { return "", fn() }); err != nil {
			return err
		}
	}
	return f.Close()
}

// ignoreMissing: the source of a move or copy may not be there, and then nothing happens.
func ignoreMissing(err error) error {
	if errors.Is(err, vole.ErrNotExist) {
		return nil
	}
	return err
}

// shared runs an operation on a name that all lanes use, where losing is no fault.
func (l *laneRunner) shared(ctx context.Context) {
	name := sharedVol(l.rng.IntN(sharedNames))
	r := record{Op: "shared-remove", Vol: name}
	fn := func() (string, error) { return "", l.store.Remove(ctx, name) }
	switch l.rng.IntN(3) {
	case 0:
		r.Op = "shared-create"
		fn = func() (string, error) {
			v, err := l.store.Create(ctx, name, vole.Spec{})
			if err != nil {
				return "", err
			}
			return v.ID(), nil
		}
	case 1:
		r.Op, r.Tag = "shared-write", l.nextTag()
		fn = func() (string, error) {
			v, err := l.store.Get(ctx, name)
			if err != nil {
				return "", err
			}
			f, err := v.FS(ctx)
			if err != nil {
				return "", err
			}
			return "", errors.Join(f.WriteFile(ctx, "file0", content(r.Tag), 0), f.Close())
		}
	}
	_ = l.do(r, fn) // judged by its class
}

// readTag reads a file and returns its tag.
func readTag(ctx context.Context, f *vole.FS, path string) (int64, error) {
	r, err := f.NewReader(ctx, path, 0, -1)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return 0, err
	}
	return tagOf(data)
}
