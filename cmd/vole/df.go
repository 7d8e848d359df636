package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
)

// usageJSON is what one volume takes.
type usageJSON struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Kind      vole.Kind  `json:"kind"`
	Used      vole.Size  `json:"used"`
	UsedStale bool       `json:"used_stale"`
	Limit     vole.Size  `json:"limit,omitempty"` // quota or capacity; absent: none
	Free      *vole.Size `json:"free,omitempty"`  // of the limit; absent when that is
}

func newDfCmd(a *app) *cobra.Command {
	var measure bool
	cmd := &cobra.Command{
		Use:   "df [NAME...]",
		Short: "Show what volumes hold and may hold",
		Long: `Show what volumes hold against their limit; all volumes when none is named.

"~" before a figure says that it may be wrong: a program used the files by their path
on the host. --measure counts such volumes, or the named ones, again.`,
		Example: `  vole df
  vole df pip-cache --measure`,
		ValidArgsFunction: completeNames(a, 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withStore(cmd.Context(), func(s *vole.Store) error { return a.df(cmd.Context(), s, args, measure) })
		},
	}
	cmd.Flags().BoolVar(&measure, "measure", false, "count again: the named volumes, or all whose figure may be wrong")
	return cmd
}

func (a *app) df(ctx context.Context, s *vole.Store, names []string, measure bool) error {
	p := a.newUsagePrinter()
	var errs []error
	for _, name := range names {
		v, err := s.Get(ctx, name)
		if err == nil {
			err = a.dfOne(ctx, p, v, measure)
		}
		errs = append(errs, err)
	}
	if len(names) == 0 {
		for v, err := range s.Volumes(ctx, vole.Filter{}) {
			if err != nil {
				return err
			}
			err = a.dfOne(ctx, p, v, measure && v.Info().UsedStale)
			if !errors.Is(err, vole.ErrNotFound) { // removed meanwhile
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(append(errs, p.close())...)
}

func (a *app) dfOne(ctx context.Context, p *usagePrinter, v *vole.Volume, measure bool) error {
	info := v.Info()
	if measure {
		var err error
		if info, err = v.Measure(ctx); err != nil {
			return err
		}
	}
	return p.add(info)
}

// usagePrinter prints a stream of usages as a table, names or a JSON array.
type usagePrinter struct {
	a *app
	t *table
	j *jsonArray
}

func (a *app) newUsagePrinter() *usagePrinter {
	p := &usagePrinter{a: a}
	switch {
	case a.json:
		p.j = a.newJSONArray()
	case !a.quiet:
		p.t = a.newTable("NAME", "KIND", "USED", "LIMIT", "FREE", "USE%")
	}
	return p
}

func (p *usagePrinter) add(i vole.Info) error {
	limit := limitOf(i)
	free := max(0, limit-i.Used)
	switch {
	case p.j != nil:
		u := usageJSON{ID: i.ID, Name: i.Name, Kind: i.Kind, Used: i.Used, UsedStale: i.UsedStale, Limit: limit}
		if limit > 0 {
			u.Free = &free
		}
		return p.j.add(u)
	case p.t == nil:
		return p.a.printf("%s\n", i.Name)
	case limit == 0:
		return p.t.row(i.Name, string(i.Kind), p.a.used(i), "-", "-", "-")
	}
	percent := fmt.Sprintf("%.0f%%", 100*float64(i.Used)/float64(limit))
	return p.t.row(i.Name, string(i.Kind), p.a.used(i), p.a.size(limit), p.a.size(free), percent)
}

func (p *usagePrinter) close() error {
	switch {
	case p.j != nil:
		return p.j.close()
	case p.t != nil:
		return p.t.close()
	}
	return nil
}
