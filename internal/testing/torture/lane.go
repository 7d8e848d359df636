//go:build unix

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

func laneName(slot, lane int) string       { return fmt.Sprintf("s%dl%d", slot, lane) }
func laneVolume(lane string, i int) string { return fmt.Sprintf("%s-%d", lane, i) }
func sharedVolume(i int) string            { return fmt.Sprintf("shared-%d", i) }

// filePath is the i-th file of a volume; the last lies in a directory.
func filePath(i int) string {
	if i == pathsPerVol-1 {
		return "dir/file"
	}
	return fmt.Sprintf("file%d", i)
}

// contentOfTag returns the content that a writer with this tag gives a file: the tag in the
// first line, then up to 64 KiB derived from it. Some are larger, so that kills hit the write.
func contentOfTag(tag int64) []byte {
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

// tagOfContent returns the tag of a file's content, and an error when it is not whole.
func tagOfContent(data []byte) (int64, error) {
	line, _, _ := bytes.Cut(data, []byte("\n"))
	tag, err := strconv.ParseInt(string(line), 10, 64)
	if err != nil || !bytes.Equal(data, contentOfTag(tag)) {
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

func runLanesChild(ctx context.Context, c config) error {
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
			tag: monotonicNow(), // greater than any that a predecessor used
		}
		go func() { errs <- l.runLane(ctx) }()
	}
	return <-errs // lanes only end by an error
}

func (l *laneRunner) runLane(ctx context.Context) error {
	for v, err := range l.store.Volumes(ctx, vole.Filter{}) {
		if err != nil {
			return err
		}
		if strings.HasPrefix(v.Name(), l.name+"-") {
			l.vols[v.Name()] = v
		}
	}
	for {
		if err := l.runRandomOp(ctx); err != nil {
			return fmt.Errorf("lane %s: %w", l.name, err)
		}
	}
}

// runAndRecord runs an operation between its two records. An error ends the lane: on its own
// volumes nothing may fail.
func (l *laneRunner) runAndRecord(r record, fn func() (id string, err error)) error {
	r.Lane = l.name
	l.out.write(r)
	id, err := fn()
	r.Done = true
	if id != "" {
		r.ID = id
	}
	if err != nil {
		r.Err, r.Text = errorClass(err), err.Error()
	}
	l.out.write(r)
	return err
}

func (l *laneRunner) nextTag() int64 { l.tag++; return l.tag }

// runRandomOp runs one random operation.
func (l *laneRunner) runRandomOp(ctx context.Context) error {
	if l.rng.IntN(6) == 0 {
		l.changeSharedVolume(ctx)
		return nil
	}
	name := laneVolume(l.name, l.rng.IntN(namesPerLane))
	v := l.vols[name]
	if v == nil {
		return l.createVolume(ctx, name)
	}
	switch n := l.rng.IntN(20); {
	case n < 3:
		return l.runAndRecord(record{Op: "remove", Vol: name, ID: v.ID()}, func() (string, error) {
			delete(l.vols, name)
			return "", l.store.Remove(ctx, name)
		})
	case n < 6:
		return l.renameVolume(ctx, v)
	case n < 8:
		tag := l.nextTag()
		return l.runAndRecord(record{Op: "update", Vol: name, ID: v.ID(), Tag: tag}, func() (string, error) {
			return "", v.Update(ctx, vole.Update{SetLabels: vole.Labels{labelKey: strconv.FormatInt(tag, 10)}})
		})
	case n < 11:
		return l.attachVolume(ctx, v)
	default:
		return l.changeFiles(ctx, v)
	}
}

func (l *laneRunner) createVolume(ctx context.Context, name string) error {
	tag := l.nextTag()
	spec := vole.Spec{Labels: vole.Labels{labelKey: strconv.FormatInt(tag, 10)}}
	if l.rng.IntN(2) == 0 {
		spec.Quota = vole.GiB
	}
	return l.runAndRecord(record{Op: "create", Vol: name, Tag: tag}, func() (string, error) {
		v, err := l.store.Create(ctx, name, spec)
		if err != nil {
			return "", err
		}
		l.vols[name] = v
		return v.ID(), nil
	})
}

func (l *laneRunner) renameVolume(ctx context.Context, v *vole.Volume) error {
	from := v.Name()
	for i := range namesPerLane {
		to := laneVolume(l.name, i)
		if l.vols[to] != nil {
			continue
		}
		return l.runAndRecord(record{Op: "rename", Vol: from, To: to, ID: v.ID()}, func() (string, error) {
			delete(l.vols, from)
			l.vols[to] = v
			return "", v.Update(ctx, vole.Update{Name: to})
		})
	}
	return nil
}

// attachVolume takes and gives back a volume, and tries to remove it in between.
func (l *laneRunner) attachVolume(ctx context.Context, v *vole.Volume) error {
	opts := vole.AttachOptions{Holder: "lane " + l.name, ReadOnly: l.rng.IntN(2) == 0}
	opts.HostPath = opts.ReadOnly || v.Info().Quota == 0
	return l.runAndRecord(record{Op: "attach", Vol: v.Name(), ID: v.ID()}, func() (string, error) {
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

// changeFiles runs one to three operations on a volume's files.
func (l *laneRunner) changeFiles(ctx context.Context, v *vole.Volume) error {
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
			fn = func() error { return f.WriteFile(ctx, p, contentOfTag(r.Tag), 0o600) }
		}
		if err := l.runAndRecord(r, func() (string, error) { return "", fn() }); err != nil {
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

// changeSharedVolume runs an operation on a name that all lanes use, where losing a race is
// no error.
func (l *laneRunner) changeSharedVolume(ctx context.Context) {
	name := sharedVolume(l.rng.IntN(sharedNames))
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
			return "", errors.Join(f.WriteFile(ctx, "file0", contentOfTag(r.Tag), 0), f.Close())
		}
	}
	_ = l.runAndRecord(r, fn) // judged by its class
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
	return tagOfContent(data)
}
