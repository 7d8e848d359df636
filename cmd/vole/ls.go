package main

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
)

func newLsCmd(a *app) *cobra.Command {
	var (
		selectors []string
		kind      string
		filter    vole.Filter
		own       listFilter
	)
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List volumes, newest first",
		Long: `List the volumes, newest first. "~" before a figure says that it may be wrong: a
program used the files by their path on the host; 'vole df --measure' counts again.

--unused-for 30d lists volumes that nobody has attached, and that nobody attached or
changed in the last 30 days, their files included; reading files by 'vole fs' or 'vole cp'
is no use. 'vole prune' removes them.

--sort used sorts by how much a volume holds (the column USED, in bytes), --sort last-used
by when it was used last (the column LAST USED).

With --limit, when more volumes follow, the cursor of the next page is printed on
standard error. Under --json a page is an object {"volumes": [...], "next": "..."}.

` + formatHelp,
		Example: `  vole ls
  vole ls -q -l team=ml,env!=prod
  vole ls --name 'ci-*' --attached=false --sort used
  vole ls --unused-for 30d --sort last-used
  vole ls --format '{{.Name}} {{.Used}}'
  vole ls --limit 100
  vole ls --json | jq -r '.[] | select(.used > 1e9) | .name'`,
		Args:              exactArgs(0, ""),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if filter.Selector, err = vole.ParseSelector(strings.Join(selectors, ",")); err != nil {
				return err
			}
			if filter.Kind, err = parseKind(kind); err != nil {
				return err
			}
			if cmd.Flags().Changed("limit") && filter.Limit <= 0 {
				return usageErrorf("--limit %d: must be at least 1", filter.Limit)
			}
			if err := own.checkFlags(cmd); err != nil {
				return err
			}
			p, err := a.newVolumePrinter(filter.Limit > 0, own.format, own.unused || own.sort == "last-used")
			if err != nil {
				return err
			}
			err = a.withStore(cmd.Context(), func(s *vole.Store) error {
				if own.sort != "created" {
					return a.listSorted(cmd.Context(), s, filter, &own, p)
				}
				return a.listVolumes(cmd.Context(), s, filter, &own, p)
			})
			if errors.Is(err, errNoHome) {
				return p.close("")
			}
			return err
		},
	}
	a.addBytesFlag(cmd)
	f := cmd.Flags()
	f.StringArrayVarP(&selectors, "selector", "l", nil, "only volumes with these labels: `k, k=v or k!=v`, separated by commas")
	f.StringVar(&kind, "kind", "", "only volumes of this kind, dir or disk")
	f.IntVar(&filter.Limit, "limit", 0, "most volumes to print (default all)")
	f.StringVar(&filter.Cursor, "cursor", "", "continue after the page that gave this cursor")
	cmd.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions([]string{"dir", "disk"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("selector", completeSelector(a))
	noFlagFiles(cmd, "limit", "cursor")
	own.register(cmd)
	return cmd
}

func parseKind(s string) (vole.Kind, error) {
	switch k := vole.Kind(s); k {
	case "", vole.KindDir, vole.KindDisk:
		return k, nil
	}
	return "", usageErrorf("unknown kind %q; use %q or %q", s, vole.KindDir, vole.KindDisk)
}

// volumePrinter prints a stream of volumes.
type volumePrinter interface {
	printVolume(info vole.Info) error
	// close ends the output; next is the cursor of what follows, if anything.
	close(next string) error
}

func (a *app) listVolumes(ctx context.Context, s *vole.Store, filter vole.Filter, f *listFilter, p volumePrinter) error {
	matches, err := f.matchVolume(ctx, s)
	if err != nil {
		return err
	}
	left := filter.Limit
	for {
		page, err := f.listPage(ctx, s, filter, left, matches)
		if err != nil {
			return err
		}
		for _, info := range page.Volumes {
			ok, err := matches(info)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			if err := p.printVolume(info); err != nil {
				return err
			}
			left--
		}
		if page.Next == "" || filter.Limit > 0 && left <= 0 {
			return p.close(page.Next)
		}
		filter.Cursor = page.Next
	}
}

// newVolumePrinter prints volumes as the flags say; a table has the time of their last use
// if that is what is asked for.
func (a *app) newVolumePrinter(paged bool, format string, lastUse bool) (volumePrinter, error) {
	switch {
	case format == "table" && !a.json && !a.quiet: // docker's name for it
		return a.newVolumeTable(lastUse), nil
	case format != "":
		return a.newFormatted(format, &listedVolume{})
	case a.json:
		return &jsonVolumes{a: a, paged: paged}, nil
	case a.quiet:
		return nameVolumes{a}, nil
	}
	return a.newVolumeTable(lastUse), nil
}

// noteMorePages tells where the next page begins, out of the way of the listing.
func (a *app) noteMorePages(next string) {
	if next != "" {
		a.notef("more volumes follow; continue with --cursor %s", next)
	}
}

type nameVolumes struct{ a *app }

func (n nameVolumes) printVolume(info vole.Info) error { return n.a.printf("%s\n", info.Name) }
func (n nameVolumes) close(next string) error          { n.a.noteMorePages(next); return nil }

type tableVolumes struct {
	a       *app
	t       *table
	lastUse bool
}

func (a *app) newVolumeTable(lastUse bool) *tableVolumes {
	header := []string{"NAME", "KIND", "USED", "LIMIT", "LABELS", "CREATED"}
	if lastUse {
		header = append(header, "LAST USED")
	}
	return &tableVolumes{a, a.newTable(header...).allowShortening("LABELS"), lastUse}
}

func (t *tableVolumes) printVolume(i vole.Info) error {
	row := []string{i.Name, string(i.Kind), t.a.formatUsage(i), t.a.formatLimit(i), formatLabels(i.Labels), t.a.formatTime(i.Created)}
	if t.lastUse {
		row = append(row, t.a.formatTime(i.LastUsed))
	}
	return t.t.addRow(row...)
}

func (t *tableVolumes) close(next string) error {
	defer t.a.noteMorePages(next)
	return t.t.close()
}

// jsonVolumes prints an array, or one page as an object.
type jsonVolumes struct {
	a     *app
	arr   *jsonArray
	paged bool
}

func (j *jsonVolumes) begin() error {
	if j.arr != nil {
		return nil
	}
	j.arr = j.a.newJSONArray()
	if j.paged {
		return j.a.printf(`{"volumes":`)
	}
	return nil
}

func (j *jsonVolumes) printVolume(info vole.Info) error {
	if err := j.begin(); err != nil {
		return err
	}
	return j.arr.add(info)
}

func (j *jsonVolumes) close(next string) error {
	if err := j.begin(); err != nil {
		return err
	}
	if err := j.arr.close(); err != nil || !j.paged {
		return err
	}
	quoted, err := json.Marshal(next)
	if err != nil {
		return err
	}
	return j.a.printf(",\"next\":%s}\n", quoted)
}
