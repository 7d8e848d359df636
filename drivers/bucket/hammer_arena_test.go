package bucket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/volehq/vole"
)

// arena is the directory for which all workers fight.
type arena struct {
	rounds    atomic.Int64 // of duels
	rotate    sync.Mutex   // held while the log is renamed, so that its numbers are in order
	rotations int

	mu       sync.Mutex // guards what follows
	winners  map[int64]string
	disputed string // who has the volume of that name
}

// serial is what a worker remembers of its part in the fights.
type serial struct {
	records []string // that it has added to the log
	n       int
}

const (
	treeFiles = 20
	commons   = 4
)

func (a *arena) setUp(h *hammer) {
	a.winners = map[int64]string{}
	ctx, f := context.Background(), h.shared.fs[0]
	for _, dir := range []string{"duel", "common", "copies", "left", "right", "flip/one", "left/flipped", "tree/sub", "pair"} {
		h.must("mkdir", f.MkdirAll(ctx, "arena/"+dir, 0o755))
	}
	for i := range treeFiles {
		for _, dir := range []string{"flip/one", "left/flipped", "tree/sub"} {
			h.must("write", f.WriteFile(ctx, fmt.Sprintf("arena/%s/%d", dir, i), uniform(byte(i), 1000*i), 0o644))
		}
	}
	// A file with names in two directories of what is copied.
	h.must("link", f.Link(ctx, "arena/tree/sub/0", "arena/tree/name"))
	h.must("setxattr", f.Setxattr(ctx, "arena/tree/sub", "user.x", []byte("y")))
	h.must("write", f.WriteFile(ctx, "arena/pair/0", nil, 0o644))
	h.must("link", f.Link(ctx, "arena/pair/0", "arena/pair/1"))
}

// uniform returns bytes that show whether some of them are of another write: the
// first 8 tell how many there are, and all others are the same.
func uniform(b byte, size int) []byte {
	return append(fmt.Appendf(nil, "%08d", size), bytes.Repeat([]byte{b}, size)...)
}

// torn says what is wrong with bytes that uniform made; "": nothing.
func torn(b []byte) string {
	size := 0
	if len(b) < 8 {
		return fmt.Sprintf("%d bytes", len(b))
	}
	if _, err := fmt.Sscanf(string(b[:8]), "%d", &size); err != nil || size != len(b)-8 {
		return fmt.Sprintf("%d bytes that begin with %q", len(b), b[:8])
	}
	if size > 0 && bytes.Count(b[8:], b[8:9]) != size {
		return fmt.Sprintf("%d bytes that are not all the same", size)
	}
	return ""
}

// anyHost is the shared volume on some host.
func (w *worker) anyHost() *vole.FS { return w.h.shared.fs[w.rnd.IntN(hamHosts)] }

// fight does something with names that others use at the same time.
func (w *worker) fight() {
	w.n++
	switch k := w.rnd.IntN(10); {
	case k < 3:
		w.logStep()
	case k < 6:
		w.duel()
	case k < 9:
		w.commonStep()
	default:
		w.quotaStep()
	}
}

// allow ends the run unless err is nil or one of kinds, or the bytes of a slow call
// were swept away.
func (w *worker) allow(op, what string, err error, kinds ...error) {
	w.h.t.Helper()
	w.h.count(op, err)
	w.note("%s %s: %v", op, what, err)
	if err != nil && !slices.ContainsFunc(kinds, func(k error) bool { return errors.Is(err, k) }) {
		w.fatal("%s %s: %v", op, what, err)
	}
}

// logStep adds records to a file that all add to, or gives it another name.
func (w *worker) logStep() {
	ctx, a := context.Background(), &w.h.arena
	if w.rnd.IntN(40) == 0 {
		a.rotate.Lock()
		defer a.rotate.Unlock()
		a.rotations++
		to := fmt.Sprintf("arena/log.%04d", a.rotations)
		w.allow("rotate", to, w.anyHost().Rename(ctx, "arena/log", to, vole.RenameOptions{NoReplace: true}), vole.ErrNotExist)
		return
	}
	f, err := w.anyHost().Open(ctx, "arena/log", vole.OpenOptions{Append: true, Create: true})
	w.allow("log open", "", err)
	for range 1 + w.rnd.IntN(3) {
		pad := w.rnd.IntN(200)
		if w.rnd.IntN(30) == 0 {
			pad = 20 << 10 // a blob of its own
		}
		w.n++
		record := fmt.Sprintf("%d %06d %s", w.i, w.n, strings.Repeat("x", pad))
		_, err := f.Append(ctx, []byte(record+"\n"))
		w.allow("log", record[:8], err, vole.ErrQuota)
		if err == nil {
			w.records = append(w.records, record)
		}
	}
	w.allow("log close", "", f.Close())
}

// duel takes part in a fight for a name that one can win.
func (w *worker) duel() {
	ctx, a, f := context.Background(), &w.h.arena, w.anyHost()
	round := a.rounds.Add(1) / 5
	name, me := fmt.Sprint("arena/duel/", round), fmt.Sprintf("%d-%d", w.i, w.n)
	src := "arena/duel/of-" + me
	ways := []string{"write", "open", "mkdir", "symlink", "rename", "link"}
	way := ways[round%int64(len(ways))]
	var err error
	switch way {
	case "write":
		_, err = f.WriteFrom(ctx, name, strings.NewReader(me), vole.WriteOptions{Exclusive: true})
	case "open":
		var h *vole.File
		if h, err = f.Open(ctx, name, vole.OpenOptions{Create: true, Exclusive: true}); err == nil {
			err = h.Close()
		}
	case "mkdir":
		err = f.Mkdir(ctx, name, 0o755)
	case "symlink":
		err = f.Symlink(ctx, me, name)
	default:
		if err = f.WriteFile(ctx, src, []byte(me), 0o644); err != nil {
			break
		}
		if way == "link" {
			err = w.anyHost().Link(ctx, src, name)
		} else {
			err = w.anyHost().Rename(ctx, src, name, vole.RenameOptions{NoReplace: true})
		}
		w.allow("remove", src, w.anyHost().RemoveAll(ctx, src))
	}
	w.allow("duel "+way, name, err, vole.ErrExists, vole.ErrQuota)
	if errors.Is(err, vole.ErrQuota) {
		return
	}
	_, there := w.anyHost().Lstat(ctx, name)
	w.allow("stat", name, there)
	if err == nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		if was := a.winners[round]; was != "" {
			w.fatal("%s: %s won %s, and %s did too", way, me, name, was)
		}
		a.winners[round] = me
	}
}

// commonStep does anything to one of a few files.
func (w *worker) commonStep() {
	ctx, f := context.Background(), w.anyHost()
	p, q := fmt.Sprint("arena/common/", w.rnd.IntN(commons)), fmt.Sprint("arena/common/", w.rnd.IntN(commons))
	noReplace := w.rnd.IntN(3) == 0
	what := p + " " + q
	switch w.rnd.IntN(8) {
	case 0, 1:
		size := w.rnd.IntN(100 << 10)
		if w.rnd.IntN(30) == 0 {
			size = 8<<20 + w.rnd.IntN(1<<20) // two blobs
		}
		w.allow("common write", p, f.WriteFile(ctx, p, uniform(byte(w.rnd.IntN(256)), size), 0o644), vole.ErrQuota)
	case 2, 3:
		err := f.Rename(ctx, p, q, vole.RenameOptions{NoReplace: noReplace})
		w.allow("common rename", what, err, vole.ErrNotExist, vole.ErrExists)
	case 4:
		err := f.Copy(ctx, p, q, vole.CopyOptions{NoReplace: noReplace})
		w.allow("common copy", what, err, vole.ErrNotExist, vole.ErrExists, vole.ErrQuota)
	case 5:
		w.allow("common link", what, f.Link(ctx, p, q), vole.ErrNotExist, vole.ErrExists)
	case 6:
		w.allow("common remove", p, f.Remove(ctx, p), vole.ErrNotExist)
	default:
		b, err := f.ReadFile(ctx, p)
		w.allow("common read", p, err, vole.ErrNotExist)
		if err == nil && torn(b) != "" {
			w.fatal("%s is torn: %s", p, torn(b))
		}
	}
}

// quotaStep changes the quota of the shared volume.
func (w *worker) quotaStep() {
	quota := hamShared*9/10 + w.rnd.IntN(hamShared/5)
	err := w.h.shared.vols[w.rnd.IntN(hamHosts)].Update(context.Background(), vole.Update{Quota: vole.Size(quota)})
	w.allow("quota", fmt.Sprint(quota), err, vole.ErrQuota)
}

// finish checks what the fights have left behind.
func (a *arena) finish(h *hammer) {
	ctx := context.Background()
	for i, f := range h.shared.fs {
		for round := range a.rounds.Load()/5 + 1 {
			p := fmt.Sprint("arena/duel/", round)
			e, err := f.Lstat(ctx, p)
			if (err == nil) != (a.winners[round] != "") {
				h.t.Errorf("host %d: %s was won by %q, and is there: %v, %v", i, p, a.winners[round], e.Mode, err)
				continue
			}
			got := a.winners[round]
			switch {
			case err != nil || e.IsDir():
			case e.Mode.IsRegular() && e.Size > 0:
				b, err := f.ReadFile(ctx, p)
				h.must("read "+p, err)
				got = string(b)
			case !e.Mode.IsRegular():
				got, err = f.Readlink(ctx, p)
				h.must("read "+p, err)
			}
			if got != a.winners[round] {
				h.t.Errorf("host %d: %s was won by %q and holds what %q wrote", i, p, a.winners[round], got)
			}
		}
	}
}

// checkLog compares the records that the logs hold with those that were added: each
// worker's in its order, none twice, none that was refused.
func (h *hammer) checkLog(f *vole.FS, workers []*worker) {
	ctx := context.Background()
	list, err := f.ReadDir(ctx, "arena")
	h.must("list", err)
	var logs []string
	for _, e := range list {
		if strings.HasPrefix(e.Name, "log.") {
			logs = append(logs, e.Name) // listings are sorted
		}
	}
	got := make([][]string, len(workers))
	for _, name := range append(logs, "log") {
		b, err := f.ReadFile(ctx, path.Join("arena", name))
		if errors.Is(err, vole.ErrNotExist) && name == "log" {
			continue
		}
		h.must("read "+name, err)
		for line := range strings.Lines(string(b)) {
			i := int(line[0] - '0')
			if i < 0 || i >= len(got) {
				h.fatal("%s is torn: %.40q", name, line)
			}
			got[i] = append(got[i], strings.TrimSuffix(line, "\n"))
		}
	}
	for i, w := range workers {
		if !slices.Equal(got[i], w.records) {
			h.t.Errorf("the log has %d records of worker %d, which added %d, or their order is another", len(got[i]), i, len(w.records))
		}
	}
}
