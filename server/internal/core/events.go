package core

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/internal/api"
)

// Events distributes the changes of volumes to streams. It finds the changes of all servers by
// comparing lists of the volumes every pollInterval, as long as an organisation has a stream;
// changes of this server are noticed sooner.
type Events struct {
	c *Core

	mu     sync.Mutex // guards what follows
	feeds  map[string]*orgFeed
	closed bool
}

// orgFeed is what the streams of one organisation share: one poller and its state.
type orgFeed struct {
	subs        map[*Subscription]struct{}
	changedHere map[string]struct{} // volumes that this server changed since the last poll
	wake        chan struct{}
	ready       chan struct{} // closed when the first list is known, or the server ends
	readyOnce   sync.Once     // closes ready
	stopPolling context.CancelFunc
}

// Subscription is one stream of events.
type Subscription struct {
	C     <-chan []api.Event // changes of one poll, for all subscribers; closed when the server ends or the reader is too slow
	Ready <-chan struct{}    // closed when the first list is known: all later changes are reported
	// Failed receives the error if the volumes cannot be listed at the beginning.
	Failed <-chan error

	c         chan []api.Event
	failed    chan error
	requestID string // of the request
	wants     func(volumeID string) bool
}

const (
	maxPendingBatches = 16 // batches that a reader may be behind
	pollInterval      = time.Second
	pollDelay         = 50 * time.Millisecond // after a change of this server
)

func newEvents(c *Core) *Events { return &Events{c: c, feeds: map[string]*orgFeed{}} }

// Subscribe begins a stream with the events of the volumes that wants selects. The first stream
// of an organisation starts its poller, the last one stops it. request is the id of the request,
// for the log.
func (e *Events) Subscribe(org, request string, want func(volumeID string) bool) *Subscription {
	c, failed := make(chan []api.Event, maxPendingBatches), make(chan error, 1)
	s := &Subscription{C: c, c: c, Failed: failed, failed: failed, requestID: request, wants: want}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		close(c)
		ready := make(chan struct{})
		close(ready)
		s.Ready = ready
		return s
	}
	f := e.feeds[org]
	if f == nil {
		ctx, stop := context.WithCancel(e.c.lifetime)
		f = &orgFeed{subs: map[*Subscription]struct{}{}, changedHere: map[string]struct{}{}, wake: make(chan struct{}, 1), ready: make(chan struct{}), stopPolling: stop}
		e.feeds[org] = f
		e.c.Go(func() { e.pollVolumes(ctx, org, f) })
	}
	s.Ready = f.ready
	f.subs[s] = struct{}{}
	return s
}

// Subscribed returns how many streams an organisation has.
func (e *Events) Subscribed(org string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if f := e.feeds[org]; f != nil {
		return len(f.subs)
	}
	return 0
}

// Unsubscribe ends a stream.
func (e *Events) Unsubscribe(org string, s *Subscription) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := e.feeds[org]
	if f == nil {
		return
	}
	delete(f.subs, s)
	if len(f.subs) == 0 {
		f.stopPolling()
		delete(e.feeds, org)
	}
}

// closeFeeds ends all streams and pollers; later subscriptions end at once.
func (e *Events) closeFeeds() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	for org, f := range e.feeds {
		for s := range f.subs {
			close(s.c)
		}
		f.stopPolling()
		f.readyOnce.Do(func() { close(f.ready) })
		delete(e.feeds, org)
	}
}

// notifyChanged wakes the poller of an organisation after this server changed a volume.
func (e *Events) notifyChanged(org, volume string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if f := e.feeds[org]; f != nil {
		f.changedHere[volume] = struct{}{}
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

// pollVolumes lists the volumes at each tick, or pollDelay after a change of this server, and
// publishes the differences. It is the one goroutine of a feed, and alone knows the last list.
func (e *Events) pollVolumes(ctx context.Context, org string, f *orgFeed) {
	var was map[string]vole.Info
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		e.mu.Lock()
		poked := f.changedHere
		f.changedHere = map[string]struct{}{}
		e.mu.Unlock()
		now, err := e.c.listVolumesByID(ctx, org)
		switch {
		case err != nil && ctx.Err() == nil:
			e.reportListFailure(org, f, err, was == nil)
		case err == nil && was != nil:
			e.publishEvents(f, diffVolumes(was, now, poked))
		}
		if err == nil {
			if was == nil {
				f.readyOnce.Do(func() { close(f.ready) })
			}
			was = now
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-f.wake:
			select {
			case <-ctx.Done():
				return
			case <-time.After(pollDelay):
			}
		}
	}
}

// reportListFailure logs that the volumes could not be listed, and tells streams that still wait
// for the first list.
func (e *Events) reportListFailure(org string, f *orgFeed, err error, first bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var ids []string
	for s := range f.subs {
		ids = append(ids, s.requestID)
		if !first {
			continue
		}
		select {
		case s.failed <- err:
		default:
		}
	}
	e.c.log.Warn("events: listing the volumes failed", "org", org, "requests", ids, "error", err)
}

// listVolumesByID lists the volumes of an organisation without labels, which may be large and
// are not compared.
func (c *Core) listVolumesByID(ctx context.Context, org string) (map[string]vole.Info, error) {
	store, err := c.Org(ctx, org)
	if err != nil {
		return nil, err
	}
	list := map[string]vole.Info{}
	for v, err := range store.Volumes(ctx, vole.Filter{}) {
		if err != nil {
			return nil, err
		}
		i := v.Info()
		i.Labels = nil // perhaps many, and not compared
		list[i.ID] = i
	}
	return list, nil
}

// diffVolumes returns the events that lead from one list to another. A volume in changedHere
// counts as changed even if its figures are equal, where the backend has no generation.
func diffVolumes(was, now map[string]vole.Info, changedHere map[string]struct{}) []api.Event {
	var list []api.Event
	at := time.Now().UTC()
	add := func(what string, i vole.Info) {
		list = append(list, api.Event{Type: what, VolumeID: i.ID, Volume: i.Name, Generation: i.Generation, At: at})
	}
	for id, i := range now {
		old, there := was[id]
		_, touched := changedHere[id]
		switch {
		case !there:
			add("created", i)
		case !i.Updated.Equal(old.Updated) || i.Name != old.Name:
			add("updated", i)
		case i.Generation != old.Generation || i.Used != old.Used || touched && i.Generation == 0:
			add("changed", i)
		}
	}
	for id, i := range was {
		if _, there := now[id]; !there {
			add("removed", i)
		}
	}
	return list
}

// publishEvents sends events to the streams that want one of them. A stream whose buffer is full
// is closed: its client must subscribe again and list the volumes.
func (e *Events) publishEvents(f *orgFeed, list []api.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for s := range f.subs {
		if !slices.ContainsFunc(list, func(ev api.Event) bool { return s.wants(ev.VolumeID) }) {
			continue
		}
		select {
		case s.c <- list:
		default:
			close(s.c)
			delete(f.subs, s)
		}
	}
}
