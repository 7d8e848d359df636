package main

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"github.com/volehq/vole"
	"github.com/volehq/vole/sandbox"
)

// pullProgress shows on a terminal how far an image is fetched. It takes the terminal only
// from Begin to End: what runs afterwards gets it as it was.
type pullProgress struct {
	a     *app
	image string
	begun time.Time
	total int64
	bytes atomic.Int64
	pool  *mpb.Progress
	bar   *mpb.Bar
}

// newPullProgress shows nothing unless standard error is a terminal.
func (a *app) newPullProgress() sandbox.PullProgress {
	if a.quiet || a.json || !isTerminal(a.stderr) {
		return nil
	}
	return &pullProgress{a: a}
}

// Begin shows the bar.
func (p *pullProgress) Begin(image string, bytes int64) {
	p.image, p.total, p.begun = image, bytes, time.Now()
	p.bytes.Store(0)
	p.pool = mpb.New(mpb.WithOutput(p.a.payloadErr), mpb.WithWidth(30), mpb.WithRefreshRate(120*time.Millisecond))
	p.bar = p.pool.New(max(bytes, 1), mpb.BarStyle(), mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Any(p.formatStatus)), mpb.AppendDecorators(decor.Any(p.formatTimeLeft)))
}

// Add counts bytes.
func (p *pullProgress) Add(n int) {
	p.bytes.Add(int64(n))
	p.bar.IncrBy(n)
}

// End takes the bar away and says what was done.
func (p *pullProgress) End(err error) {
	p.bar.Abort(true)
	p.pool.Wait()
	if err == nil {
		took := time.Since(p.begun).Round(10 * time.Millisecond)
		fmt.Fprintf(p.a.stderr, "pulled %s, %s in %v\n", escapeControls(p.image), vole.Size(p.total).Human(), took)
	}
}

// formatStatus is what stands before the bar.
func (p *pullProgress) formatStatus(decor.Statistics) string {
	return fmt.Sprintf("%s: %s of %s ", escapeControls(p.image), vole.Size(p.bytes.Load()).Human(), vole.Size(p.total).Human())
}

// formatTimeLeft estimates how long the rest takes.
func (p *pullProgress) formatTimeLeft(decor.Statistics) string {
	done, took := p.bytes.Load(), time.Since(p.begun)
	if done <= 0 || took < time.Second {
		return ""
	}
	rest := time.Duration(float64(took) / float64(done) * float64(p.total-done))
	return fmt.Sprintf(" %v left", max(0, rest).Round(time.Second))
}
