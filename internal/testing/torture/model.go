//go:build unix

package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// volume is the state of one volume, by the record or as found in the home.
type volume struct {
	id    string // "": whatever it was given by a create that was not acknowledged
	label string
	files map[string]int64 // path -> tag
}

// model is a lane's volumes by name.
type model map[string]volume

func (m model) clone() model {
	c := model{}
	for name, v := range m {
		v.files = maps.Clone(v.files)
		c[name] = v
	}
	return c
}

// applyRecord applies a recorded operation. Records come in the lane's order, so its operands
// exist.
func (m model) applyRecord(r record) {
	v, ok := m[r.Vol]
	switch r.Op {
	case "create":
		m[r.Vol] = volume{id: r.ID, label: strconv.FormatInt(r.Tag, 10), files: map[string]int64{}}
		return
	case "remove":
		delete(m, r.Vol)
		return
	case "rename":
		delete(m, r.Vol)
		m[r.To] = v
		return
	}
	if !ok {
		return
	}
	tag, there := v.files[r.Path]
	switch r.Op {
	case "update":
		v.label = strconv.FormatInt(r.Tag, 10)
		m[r.Vol] = v
	case "write":
		v.files[r.Path] = r.Tag
	case "delete":
		delete(v.files, r.Path)
	case "move":
		if there && r.Path != r.To {
			delete(v.files, r.Path)
			v.files[r.To] = tag
		}
	case "copy":
		if there {
			v.files[r.To] = tag
		}
	}
}

// differenceFrom describes how the home's state differs from the model; "" if it does not.
func (m model) differenceFrom(have model) string {
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if _, ok := m[name]; !ok {
			return fmt.Sprintf("%s (%s) is there and must not be", name, have[name].id)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		want := m[name]
		got, ok := have[name]
		switch {
		case !ok:
			return fmt.Sprintf("%s (%s) is lost", name, want.id)
		case want.id != "" && want.id != got.id:
			return fmt.Sprintf("%s is %s and must be %s", name, got.id, want.id)
		case want.label != got.label:
			return fmt.Sprintf("%s has label %q and must have %q", name, got.label, want.label)
		case !maps.Equal(want.files, got.files):
			return fmt.Sprintf("%s (%s) holds files %v and must hold %v", name, got.id, got.files, want.files)
		}
	}
	return ""
}

// history holds all that a lane has done so far.
type history struct {
	done    model
	removed map[string]bool // ids that were acknowledged as removed
	pending *record         // what had begun when the child was killed
}

func newHistory() *history { return &history{done: model{}, removed: map[string]bool{}} }

// addRecord takes one record of the lane. Errors are returned: on its own volumes a lane's
// operations must not fail.
func (h *history) addRecord(r record) error {
	if !r.Done {
		h.pending = &r
		return nil
	}
	h.pending = nil
	if r.Err != "" {
		return fmt.Errorf("%s failed: %s", r.Op, r.Text)
	}
	if r.Op == "remove" {
		h.removed[r.ID] = true
	}
	h.done.applyRecord(r)
	return nil
}

// settlePending compares the home with the lane's record: it must hold what was
// acknowledged, and each pending operation wholly or not at all. The home's state then
// becomes the lane's.
func (h *history) settlePending(have model) error {
	before := h.done.differenceFrom(have)
	p := h.pending
	h.pending = nil
	if before == "" {
		h.done = have
		return nil
	}
	if p == nil {
		return fmt.Errorf("%s; nothing was pending", before)
	}
	done := h.done.clone()
	done.applyRecord(*p)
	if after := done.differenceFrom(have); after != "" {
		return fmt.Errorf("%s was pending; if it was not done: %s; if it was: %s", p, before, after)
	}
	h.done = have
	return nil
}
