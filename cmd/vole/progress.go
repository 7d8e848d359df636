package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"github.com/volehq/vole"
	"github.com/volehq/vole/transfer"
)

// progress shows on a terminal how far a command is, and when it will be done if it is known
// how much there is. Elsewhere it is silent.
type progress struct {
	a     *app
	pool  *mpb.Progress
	bar   *mpb.Bar // nil: nothing is shown
	thing string   // what is counted if not bytes and files, e.g. "volume"
	image string   // that is fetched, if no files are copied
	begun time.Time

	bytes atomic.Int64
	files atomic.Int64

	position atomic.Int64 // of all that there is; bytes that are skipped count
	size     atomic.Int64 // all that there is; 0: unknown
	reported atomic.Bool  // position is set by setPosition and advance, not by Add

	mu   sync.Mutex // guards name
	name string     // of the file copied last
}

// newProgress shows nothing unless standard error is a terminal.
func (a *app) newProgress() *progress { return a.startProgress(&progress{}) }

// startProgress is newProgress of what says already what it shows.
func (a *app) startProgress(p *progress) *progress {
	p.a, p.begun = a, time.Now()
	if a.quiet || a.json || !isTerminal(a.stderr) {
		return p
	}
	p.pool = mpb.New(mpb.WithOutput(a.payloadErr), mpb.WithWidth(30), mpb.WithRefreshRate(120*time.Millisecond))
	p.bar = p.pool.New(0, mpb.BarStyle(),
		mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Any(p.formatStatus)),
		mpb.AppendDecorators(decor.Any(p.formatCurrentFile)))
	return p
}

// formatStatus is what stands before the bar.
func (p *progress) formatStatus(decor.Statistics) string {
	took := time.Since(p.begun)
	left := p.formatTimeLeft(took)
	total := p.size.Load()
	if p.image != "" {
		return fmt.Sprintf("%s: %s of %s%s ", p.image, vole.Size(p.position.Load()).Human(), vole.Size(total).Human(), left)
	}
	if p.thing != "" {
		s := countOf(p.position.Load(), p.thing)
		if total > 0 {
			s = fmt.Sprintf("%d of %s", p.position.Load(), countOf(total, p.thing))
		}
		return s + left + " "
	}
	done := vole.Size(p.bytes.Load())
	rate := vole.Size(float64(done) / max(took.Seconds(), 0.001))
	s := done.Human()
	if total > 0 {
		s = vole.Size(p.position.Load()).Human() + " of " + vole.Size(total).Human()
	}
	return fmt.Sprintf("%s, %s, %s/s%s ", countOf(p.files.Load(), "file"), s, rate.Human(), left)
}

// longestETA is how far ahead a guess is shown.
const longestETA = 100 * time.Hour

// formatTimeLeft says how long it will take, if the rest takes as long as what is done did.
func (p *progress) formatTimeLeft(took time.Duration) string {
	at, total := p.position.Load(), p.size.Load()
	if at <= 0 || at > total {
		return ""
	}
	eta := took.Seconds() * float64(total-at) / float64(at)
	if eta > longestETA.Seconds() {
		return ""
	}
	return ", ETA " + time.Duration(eta*float64(time.Second)).Round(time.Second).String()
}

// formatCurrentFile is what stands behind the bar.
func (p *progress) formatCurrentFile(decor.Statistics) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return " " + escapeControls(p.name)
}

// setTotal says how much there will be.
func (p *progress) setTotal(n int64) {
	if p.bar == nil || n <= 0 {
		return
	}
	p.size.Store(n)
	p.bar.SetTotal(n, false)
	p.moveBar()
}

// moveBar moves the bar, but never to its end: mpb ends a bar that is full, and only removeBar knows
// when the work is done. A file that grows while it is copied has more bytes than was announced.
func (p *progress) moveBar() {
	if n := p.size.Load(); p.bar != nil && n > 0 {
		p.bar.SetCurrent(min(p.position.Load(), n-1))
	}
}

// findTotalBeside finds out how much there will be while the work is under way. stop ends that,
// and waits until it has.
func (p *progress) findTotalBeside(ctx context.Context, find func(ctx context.Context) (int64, error)) (stop func()) {
	if p.bar == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	found := make(chan struct{})
	go func() {
		defer close(found)
		if n, err := find(ctx); err == nil { // else the work itself meets the error
			p.setTotal(n)
		}
	}()
	return func() { cancel(); <-found }
}

// Add counts n bytes.
func (p *progress) Add(n int) {
	p.bytes.Add(int64(n))
	if !p.reported.Load() {
		p.advance(n)
	}
}

// advance says that n bytes more of the total are done.
func (p *progress) advance(n int) {
	p.position.Add(int64(n))
	p.moveBar()
}

// setPosition says how much of the total is done or was skipped. From then on Add does not.
func (p *progress) setPosition(n int64) {
	p.reported.Store(true)
	p.position.Store(n)
	p.moveBar()
}

// setCount says how many things are done, of how many.
func (p *progress) setCount(done, total int64) {
	p.setTotal(total)
	p.setPosition(done)
}

// File counts a file.
func (p *progress) File(name string) {
	p.files.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.name = path.Base(name)
}

// measureSource measures progress by how much of r is read, which holds what is copied in another
// form: compressed, or as an archive. The total is what is left of r if it is a file.
func (p *progress) measureSource(r io.Reader) io.Reader {
	n := bytesLeft(r)
	if p.bar == nil || n <= 0 {
		return r
	}
	p.setTotal(n)
	p.setPosition(0)
	return countingReader{r, p.advance}
}

// bytesLeft is how many bytes there are to read of a regular file; 0: unknown.
func bytesLeft(r io.Reader) int64 {
	f, ok := r.(*os.File)
	if !ok {
		return 0
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return 0
	}
	at, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0
	}
	return max(0, info.Size()-at)
}

// countingReader tells count how many bytes each Read returned.
type countingReader struct {
	r     io.Reader
	count func(n int)
}

func (c countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.count(n)
	return n, err
}

// warnf prints a warning above the bar.
func (p *progress) warnf(format string, args ...any) {
	if p.pool == nil {
		p.a.warnf(format, args...)
		return
	}
	fmt.Fprintf(p.pool, "vole: warning: %s\n", escapeControls(fmt.Sprintf(format, args...)))
}

// printAboveBar prints a line of output; above the bar where both are on terminals.
func (p *progress) printAboveBar(line string) error {
	if p.pool != nil && isTerminal(p.a.stdout) {
		_, err := fmt.Fprintf(p.pool, "%s\n", escapeControls(line))
		return err
	}
	_, err := fmt.Fprintf(p.a.stdout, "%s\n", line)
	return err
}

// removeBar takes the bar away.
func (p *progress) removeBar() {
	if p.bar != nil {
		p.bar.Abort(true)
		p.pool.Wait()
	}
}

// finishBar takes the bar away, and says on a terminal what was copied.
func (p *progress) finishBar(ok bool, s transfer.Stats) {
	p.endBar(ok, "copied "+countOf(s.Files, "file"), vole.Size(s.Bytes))
}

// endBar takes the bar away, and says on a terminal what was done, how much that was and how long
// it took.
func (p *progress) endBar(ok bool, did string, size vole.Size) {
	p.removeBar()
	if p.bar != nil && ok {
		fmt.Fprintf(p.a.stderr, "%s, %s in %v\n", did, size.Human(), time.Since(p.begun).Round(10*time.Millisecond))
	}
}
