//go:build unix

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/volehq/vole"
)

const sigQuit = syscall.SIGQUIT

// judge decides from what all processes said whether there was one winner each time.
type judge struct {
	records  []record
	lives    map[string]*life // by id of a volume
	slowest  record
	timeouts int // of the short contexts
	duels    int
}

// life holds all that is known of one volume.
type life struct {
	named []record // calls that gave it a name
	left  []record // calls that took one away, or may have done so before they timed out
	gone  *record  // its removal, if that was acknowledged
	maybe bool     // its removal timed out
}

// span is when a volume certainly had a name.
type span struct {
	name, id   string
	start, end int64
}

// spans are from when a call that gave a name had returned until a call that may have
// taken it away later began.
func (l *life) spans() []span {
	var list []span
	for _, n := range l.named {
		s := span{n.Vol, n.ID, n.End, math.MaxInt64}
		if n.Op == "rename" {
			s.name = n.To
		}
		for _, r := range l.left {
			if r != n && r.End > n.Start {
				s.end = min(s.end, r.Start)
			}
		}
		if s.end > s.start {
			list = append(list, s)
		}
	}
	return list
}

// allowed are the errors that a loser may get, by operation. A removal takes files away
// one by one, so a concurrent reader may miss a file before the volume.
var allowed = map[string]string{
	"create": "exists", "remove": "not-found in-use", "rename": "not-found exists", "attach": "not-found",
	"write": "not-found no-file", "get": "not-found", "duel-create": "exists", "duel-remove": "not-found",
}

func newJudge(records []record) *judge {
	slices.SortFunc(records, func(a, b record) int { return cmp.Compare(a.Start, b.Start) })
	return &judge{records: records, lives: map[string]*life{}}
}

func (j *judge) judgeAll() error {
	if len(j.records) == 0 {
		return errors.New("nobody said anything")
	}
	for _, r := range j.records {
		if err := j.judgeCall(r); err != nil {
			return err
		}
	}
	for _, r := range j.records {
		if err := j.enterCall(r); err != nil {
			return err
		}
	}
	return errors.Join(j.refuseGhosts(), j.refuseOverlaps(), j.judgeDuels())
}

// judgeCall judges one call by itself.
func (j *judge) judgeCall(r record) error {
	if took := r.End - r.Start; took > j.slowest.End-j.slowest.Start {
		j.slowest = r
	}
	if late := time.Duration(r.End - r.Start - r.Limit); late > slack {
		return fmt.Errorf("waited %v longer than its context: %s", late, r)
	}
	switch {
	case r.Err == "timeout" && r.Limit == int64(shortest):
		j.timeouts++
	case r.Err == "timeout":
		return fmt.Errorf("nothing holds a lock for that long: %s", r)
	case r.Err != "" && !strings.Contains(allowed[r.Op], r.Err):
		return fmt.Errorf("no loser gets this error: %s", r)
	}
	return nil
}

// enterCall adds one call to the life of its volume.
func (j *judge) enterCall(r record) error {
	if r.ID == "" || r.Err != "" && r.Err != "timeout" {
		return nil
	}
	l := j.lives[r.ID]
	if l == nil {
		// Calls on it may come before its creation does, by when they began.
		l = &life{}
		j.lives[r.ID] = l
	}
	done := r.Err == ""
	switch r.Op {
	case "create", "duel-create":
		if slices.ContainsFunc(l.named, func(n record) bool { return n.Op == r.Op }) {
			return fmt.Errorf("id %s was made twice", r.ID)
		}
		l.named = append(l.named, r)
	case "rename":
		l.left = append(l.left, r)
		if done {
			l.named = append(l.named, r)
		}
	case "remove":
		l.left = append(l.left, r)
		if done && l.gone != nil {
			return fmt.Errorf("two calls removed one volume, the second: %s", r)
		}
		if done {
			l.gone = &r
		}
		l.maybe = l.maybe || !done
	}
	return nil
}

// refuseGhosts fails if a call found a volume by its name after its removal was acknowledged.
func (j *judge) refuseGhosts() error {
	for _, r := range j.records {
		if l := j.lives[r.ID]; r.ID != "" && l != nil && l.gone != nil && r.Start > l.gone.End {
			return fmt.Errorf("found what had been removed: %s, removed by %s", r, l.gone)
		}
	}
	return nil
}

// refuseOverlaps fails if two volumes had the same name at the same time.
func (j *judge) refuseOverlaps() error {
	byName := map[string][]span{}
	for _, l := range j.lives {
		for _, s := range l.spans() {
			byName[s.name] = append(byName[s.name], s)
		}
	}
	for name, spans := range byName {
		if strings.HasPrefix(name, "duel-") {
			continue
		}
		slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.start, b.start) })
		for i := 1; i < len(spans); i++ {
			if spans[i].start < spans[i-1].end && spans[i].id != spans[i-1].id {
				a, b := j.lives[spans[i-1].id], j.lives[spans[i].id]
				return fmt.Errorf("%s was %s and %s at the same time:\n%v\n%v\n%v\n%v", name, spans[i-1].id, spans[i].id,
					a.named, a.left, b.named, b.left)
			}
		}
	}
	return nil
}

// judgeDuels: of all that create one name at once, one wins; so of all that remove it.
func (j *judge) judgeDuels() error {
	type duel struct {
		created, removed        int // winners
		creators, removers      int
		lastCreate, firstRemove int64
	}
	duels := map[string]*duel{}
	for _, r := range j.records {
		if !strings.HasPrefix(r.Op, "duel-") {
			continue
		}
		d := duels[r.Vol]
		if d == nil {
			d = &duel{firstRemove: math.MaxInt64}
			duels[r.Vol] = d
		}
		won := 0
		if r.Err == "" {
			won = 1
		}
		if r.Op == "duel-create" {
			d.creators++
			d.created += won
			d.lastCreate = max(d.lastCreate, r.End)
		} else {
			d.removers++
			d.removed += won
			d.firstRemove = min(d.firstRemove, r.Start)
		}
	}
	for name, d := range duels {
		// On a busy machine a creator may be so late that the name was free again.
		if d.creators == 0 || d.lastCreate >= d.firstRemove {
			continue
		}
		j.duels++
		if d.created != 1 {
			return fmt.Errorf("%d of %d won the creation of %s", d.created, d.creators, name)
		}
		if d.removers > 0 && d.removed != 1 {
			return fmt.Errorf("%d of %d won the removal of %s", d.removed, d.removers, name)
		}
	}
	return nil
}

// compareWithHome fails unless the home lists exactly the volumes created and not removed.
func (j *judge) compareWithHome(ctx context.Context, s *vole.Store) error {
	listed := map[string]bool{}
	for v, err := range s.Volumes(ctx, vole.Filter{}) {
		if err != nil {
			return err
		}
		listed[v.ID()] = true
		if l := j.lives[v.ID()]; l != nil && l.gone != nil {
			return fmt.Errorf("%s (%s) was removed and is there", v.Name(), v.ID())
		}
	}
	for id, l := range j.lives {
		// Those of duels were removed by name, so their record does not tell. Of some
		// nothing is known but that they were there once.
		duel := slices.ContainsFunc(l.named, func(n record) bool { return n.Op == "duel-create" })
		if !duel && l.gone == nil && !l.maybe && !listed[id] {
			return fmt.Errorf("%s was not removed and is lost", id)
		}
	}
	return nil
}

func (j *judge) describeCounts() string {
	last := j.records[len(j.records)-1].Start - j.records[0].Start
	return fmt.Sprintf("%d calls, %.0f/s; %d duels, each with one winner; slowest call %v (%s); %d of the %v contexts ended",
		len(j.records), float64(len(j.records))/time.Duration(max(last, 1)).Seconds(), j.duels,
		time.Duration(j.slowest.End-j.slowest.Start).Round(time.Millisecond), j.slowest.Op, j.timeouts, shortest)
}
