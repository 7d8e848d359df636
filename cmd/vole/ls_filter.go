package main

import (
	"cmp"
	"context"
	"path"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// listFilter is what ls filters by itself, beside what it asks the backend for (vole.Filter).
type listFilter struct {
	name     string // a pattern of path.Match; "": any
	attached bool
	byUse    bool // only attached volumes, or only others
	sort     string
	format   string
	span     string    // as it was given
	unused   bool      // only volumes that are unused
	before   time.Time // since then
}

// register adds the flags to a command.
func (f *listFilter) register(cmd *cobra.Command) {
	s := cmd.Flags()
	s.StringVar(&f.name, "name", "", "only volumes whose name matches this `pattern`, e.g. 'ci-*'")
	s.BoolVar(&f.attached, "attached", false, "only attached volumes; --attached=false: only others")
	s.StringVar(&f.span, "unused-for", "", "only volumes that were not attached or changed for this `time`, e.g. 30d")
	s.StringVar(&f.sort, "sort", "created", "order: created (newest first), name, used (by bytes, most first), or last-used (by time, latest first)")
	completeFlagWith(cmd, "sort", sortOrders...)
	completeFlagWith(cmd, "unused-for", unusedSpans...)
	completeFlagWith(cmd, "attached", "true", "false")
	noFlagFiles(cmd, "name")
	addFormatFlag(cmd, &f.format)
}

var sortOrders = []string{"created", "name", "used", "last-used"}

// unusedSpans are offered for --unused-for.
var unusedSpans = []string{"1d", "1w", "30d", "90d"}

// checkFlags refuses what makes no sense.
func (f *listFilter) checkFlags(cmd *cobra.Command) error {
	f.byUse = cmd.Flags().Changed("attached")
	if _, err := path.Match(f.name, ""); err != nil {
		return usageErrorf("--name %q: this is no pattern; * and ? stand for letters, [a-z] for one of them", f.name)
	}
	if !slices.Contains(sortOrders, f.sort) {
		return usageErrorf("--sort %q: use created, name, used or last-used", f.sort)
	}
	if cmd.Flags().Changed("unused-for") {
		var err error
		if f.before, err = parseUnusedFor(f.span, time.Now()); err != nil {
			return err
		}
		f.unused = true
	}
	if f.sort != "created" && cmd.Flags().Changed("cursor") {
		return usageErrorf("--cursor continues a list by age, newest first; it does not go with --sort %s", f.sort)
	}
	return nil
}

// parseUnusedFor returns the time since when volumes are unused.
func parseUnusedFor(span string, now time.Time) (time.Time, error) {
	d, err := parseSpan(span)
	if err != nil {
		return now, usageErrorf("--unused-for %q: %v", span, err)
	}
	return now.Add(-d), nil
}

// unusedSince reports whether a volume that is not attached was last used before that time.
// A server of an older version does not tell.
func unusedSince(info vole.Info, since time.Time) (bool, error) {
	if info.LastUsed.IsZero() {
		return false, driver.Errorf(vole.ErrUnsupported, "the server does not tell when volumes were last used; upgrade it")
	}
	return !info.LastUsed.After(since), nil
}

// attachmentsByVolume returns for each volume that is attached the newest attachment, by the volume's id.
func attachmentsByVolume(ctx context.Context, s *vole.Store) (map[string]vole.AttachmentInfo, error) {
	list, err := s.Attachments(ctx)
	byVolume := make(map[string]vole.AttachmentInfo, len(list))
	for _, at := range list {
		byVolume[at.VolumeID] = at
	}
	return byVolume, err
}

// matchVolume returns what tells whether a volume is listed.
func (f *listFilter) matchVolume(ctx context.Context, s *vole.Store) (func(vole.Info) (bool, error), error) {
	var holders map[string]vole.AttachmentInfo
	if f.byUse || f.unused {
		var err error
		if holders, err = attachmentsByVolume(ctx, s); err != nil {
			return nil, err
		}
	}
	return func(info vole.Info) (bool, error) {
		if ok, _ := path.Match(f.name, info.Name); f.name != "" && !ok {
			return false, nil
		}
		_, inUse := holders[info.ID]
		if f.byUse && inUse != f.attached {
			return false, nil
		}
		if f.unused {
			unused, err := unusedSince(info, f.before)
			return unused && !inUse, err
		}
		return true, nil
	}, nil
}

// listPage asks for the next page of a listing, with at most left volumes that match, if left is
// more than 0. Where only some match, a page of the backend's own size is asked for; when
// that has too many it is asked for again, up to the last that is printed, so that the
// cursor is right.
func (f *listFilter) listPage(ctx context.Context, s *vole.Store, filter vole.Filter, left int, matches func(vole.Info) (bool, error)) (vole.Page, error) {
	filter.Limit = left
	if left <= 0 || f.name == "" && !f.byUse && !f.unused {
		return s.List(ctx, filter)
	}
	filter.Limit = 0
	page, err := s.List(ctx, filter)
	if err != nil {
		return page, err
	}
	for i, info := range page.Volumes {
		if ok, err := matches(info); !ok {
			if err != nil {
				return page, err
			}
			continue
		}
		if left--; left == 0 && i < len(page.Volumes)-1 {
			filter.Limit = i + 1
			return s.List(ctx, filter)
		}
	}
	return page, nil
}

// listSorted prints all volumes in another order than that of the backend, or the first of
// them when there is a limit. It holds all that match in memory, and has no cursor to go on from.
func (a *app) listSorted(ctx context.Context, s *vole.Store, filter vole.Filter, f *listFilter, p volumePrinter) error {
	matches, err := f.matchVolume(ctx, s)
	if err != nil {
		return err
	}
	limit := filter.Limit
	filter.Limit = 0
	var all []vole.Info
	for v, err := range s.Volumes(ctx, filter) {
		if err != nil {
			return err
		}
		ok, err := matches(v.Info())
		if err != nil {
			return err
		}
		if ok {
			all = append(all, v.Info())
		}
	}
	slices.SortStableFunc(all, func(x, y vole.Info) int {
		c := 0
		switch f.sort {
		case "used":
			c = cmp.Compare(y.Used, x.Used)
		case "last-used":
			c = y.LastUsed.Compare(x.LastUsed)
		}
		return cmp.Or(c, cmp.Compare(x.Name, y.Name))
	})
	if limit > 0 {
		all = all[:min(limit, len(all))]
	}
	for _, info := range all {
		if err := p.printRecord(info); err != nil {
			return err
		}
	}
	return p.close("")
}
