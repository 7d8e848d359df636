package main

import (
	"cmp"
	"context"
	"path"
	"slices"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
)

// listFilter is what ls looks at itself, beside what it asks the backend for.
type listFilter struct {
	name     string // a pattern of path.Match; "": any
	attached bool
	byUse    bool // only attached volumes, or only others
	sort     string
	format   string
}

func (f *listFilter) add(cmd *cobra.Command) {
	s := cmd.Flags()
	s.StringVar(&f.name, "name", "", "only volumes whose name matches this `pattern`, e.g. 'ci-*'")
	s.BoolVar(&f.attached, "attached", false, "only volumes that somebody has attached; --attached=false: only others")
	s.StringVar(&f.sort, "sort", "created", "order: created (newest first), name, or used (largest first)")
	_ = cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions([]string{"created", "name", "used"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("attached", cobra.FixedCompletions([]string{"true", "false"}, cobra.ShellCompDirectiveNoFileComp))
	noFlagFiles(cmd, "name")
	addFormatFlag(cmd, &f.format)
}

// check refuses what makes no sense.
func (f *listFilter) check(cmd *cobra.Command) error {
	f.byUse = cmd.Flags().Changed("attached")
	if _, err := path.Match(f.name, ""); err != nil {
		return usagef("--name %q: this is no pattern; * and ? stand for letters, [a-z] for one of them", f.name)
	}
	switch f.sort {
	case "created", "name", "used":
	default:
		return usagef("--sort %q: use created, name or used", f.sort)
	}
	if f.sort != "created" && cmd.Flags().Changed("cursor") {
		return usagef("--cursor continues a list by age, newest first; it does not go with --sort %s", f.sort)
	}
	return nil
}

// matcher returns what tells whether a volume is listed.
func (f *listFilter) matcher(ctx context.Context, s *vole.Store) (func(vole.Info) bool, error) {
	inUse := map[string]bool{}
	if f.byUse {
		list, err := s.Attachments(ctx)
		if err != nil {
			return nil, err
		}
		for _, at := range list {
			inUse[at.VolumeID] = true
		}
	}
	return func(info vole.Info) bool {
		if ok, _ := path.Match(f.name, info.Name); f.name != "" && !ok {
			return false
		}
		return !f.byUse || inUse[info.ID] == f.attached
	}, nil
}

// page asks for the next page of a listing, with at most left volumes that match, if left is
// more than 0. Where only some match, a page of the backend's own size is asked for; when
// that has too many it is asked for again, up to the last that is printed, so that the
// cursor is right.
func (f *listFilter) page(ctx context.Context, s *vole.Store, filter vole.Filter, left int, matches func(vole.Info) bool) (vole.Page, error) {
	filter.Limit = left
	if left <= 0 || f.name == "" && !f.byUse {
		return s.List(ctx, filter)
	}
	filter.Limit = 0
	page, err := s.List(ctx, filter)
	if err != nil {
		return page, err
	}
	for i, info := range page.Volumes {
		if !matches(info) {
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
// them when there is a limit.
func (a *app) listSorted(ctx context.Context, s *vole.Store, filter vole.Filter, f *listFilter, p volumePrinter) error {
	matches, err := f.matcher(ctx, s)
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
		if matches(v.Info()) {
			all = append(all, v.Info())
		}
	}
	slices.SortStableFunc(all, func(x, y vole.Info) int {
		if f.sort == "used" {
			if c := cmp.Compare(y.Used, x.Used); c != 0 {
				return c
			}
		}
		return cmp.Compare(x.Name, y.Name)
	})
	if limit > 0 {
		all = all[:min(limit, len(all))]
	}
	for _, info := range all {
		if err := p.add(info); err != nil {
			return err
		}
	}
	return p.close("")
}
