package main

import (
	"fmt"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"github.com/volehq/vole"
	"github.com/volehq/vole/transfer"
)

// progress shows on a terminal how far a copy is. Elsewhere it is silent.
type progress struct {
	a     *app
	pool  *mpb.Progress
	bar   *mpb.Bar
	begun time.Time
	bytes atomic.Int64
	files atomic.Int64
	size  atomic.Int64 // of all, if known

	mu   sync.Mutex // guards name
	name string     // of the file copied last
}

// newProgress shows nothing unless standard error is a terminal.
func (a *app) newProgress() *progress {
	p := &progress{a: a, begun: time.Now()}
	if a.quiet || a.json || !isTerminal(a.stderr) {
		return p
	}
	p.pool = mpb.New(mpb.WithOutput(a.payloadErr), mpb.WithWidth(30), mpb.WithRefreshRate(120*time.Millisecond))
	p.bar = p.pool.New(0, mpb.BarStyle(),
		mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Any(p.status)),
		mpb.AppendDecorators(decor.Any(p.current)))
	return p
}

func (p *progress) status(decor.Statistics) string {
	done := vole.Size(p.bytes.Load())
	rate := vole.Size(float64(done) / max(time.Since(p.begun).Seconds(), 0.001))
	s := done.Human()
	if total := p.size.Load(); total > 0 {
		s += " of " + vole.Size(total).Human()
	}
	return fmt.Sprintf("%s, %s, %s/s ", countOf(p.files.Load(), "file"), s, rate.Human())
}

func (p *progress) current(decor.Statistics) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return " " + plain(p.name)
}

// total says how many bytes there will be.
func (p *progress) total(n int64) {
	if p.bar == nil {
		return
	}
	p.size.Store(n)
	p.bar.SetTotal(max(n, 1), false)
}

// Add counts n bytes.
func (p *progress) Add(n int) {
	p.bytes.Add(int64(n))
	if p.bar != nil && p.size.Load() > 0 {
		p.bar.IncrBy(n)
	}
}

// File counts a file.
func (p *progress) File(name string) {
	p.files.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.name = path.Base(name)
}

// warnf prints a warning above the bar.
func (p *progress) warnf(format string, args ...any) {
	if p.pool == nil {
		p.a.warnf(format, args...)
		return
	}
	fmt.Fprintf(p.pool, "vole: warning: %s\n", plain(fmt.Sprintf(format, args...)))
}

// done takes the bar away, and says on a terminal what was done.
func (p *progress) done(ok bool, s transfer.Stats) {
	if p.bar == nil {
		return
	}
	p.bar.Abort(true)
	p.pool.Wait()
	if ok {
		took := time.Since(p.begun).Round(10 * time.Millisecond)
		fmt.Fprintf(p.a.stderr, "copied %s, %s in %v\n", countOf(int64(s.Files), "file"), vole.Size(s.Bytes).Human(), took)
	}
}
