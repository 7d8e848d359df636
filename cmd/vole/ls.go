package main

import (
	"context"
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

--unused-for 30d lists volumes that are not attached, and that were not attached or changed
in the last 30 days, their files included; reading files with 'vole fs' or 'vole cp' does
not count as use. 'vole prune' removes them.

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
			s, err := a.openStore(cmd.Context())
			switch {
			case errors.Is(err, errNoHome):
				return p.close("")
			case err != nil:
				return err
			case own.sort != "created":
				return a.listSorted(cmd.Context(), s, filter, &own, p)
			}
			return a.listVolumes(cmd.Context(), s, filter, &own, p)
		},
	}
	a.addBytesFlag(cmd)
	f := cmd.Flags()
	f.StringArrayVarP(&selectors, "selector", "l", nil, "only volumes with these labels: `k, k=v or k!=v`, separated by commas")
	f.StringVar(&kind, "kind", "", "only volumes of this kind, dir or disk")
	f.IntVar(&filter.Limit, "limit", 0, "most volumes to print (default all)")
	f.StringVar(&filter.Cursor, "cursor", "", "continue after the page that gave this cursor")
	completeFlagWith(cmd, "kind", "dir", "disk")
	_ = cmd.RegisterFlagCompletionFunc("selector", completeSelector(a))
	noFlagFiles(cmd, "limit", "cursor")
	own.register(cmd)
	return cmd
}

// parseKind parses the kind of a volume; "": any.
func parseKind(s string) (vole.Kind, error) {
	switch k := vole.Kind(s); k {
	case "", vole.KindDir, vole.KindDisk:
		return k, nil
	}
	return "", usageErrorf("unknown kind %q; use %q or %q", s, vole.KindDir, vole.KindDisk)
}

// volumePrinter prints a stream of volumes.
type volumePrinter interface {
	printRecord(info vole.Info) error
	// close ends the output; next is the cursor of what follows, if anything.
	close(next string) error
}

// listVolumes prints the volumes that match, page by page, newest first.
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
			if err := p.printRecord(info); err != nil {
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
	if format != "" && (format != "table" || a.json || a.quiet) { // "table" is docker's name for the usual output
		return a.newFormatted(format, &listedVolume{})
	}
	return a.newVolumeListing(paged, lastUse), nil
}

// newVolumeListing prints volumes; a table has the time of their last use if lastUse says so.
func (a *app) newVolumeListing(paged, lastUse bool) *pagedListing[vole.Info] {
	header := []string{"NAME", "KIND", "USED", "LIMIT", "LABELS", "CREATED"}
	if lastUse {
		header = append(header, "LAST USED")
	}
	t := a.newTable(header...).allowShortening("LABELS")
	return newPagedListing("volumes", paged, newListing(a, t, volumeName, func(i vole.Info) []string {
		row := []string{i.Name, string(i.Kind), a.formatUsage(i.Used, i.UsedStale), a.formatLimit(limitOrNone(i)), formatLabels(i.Labels), a.formatTime(i.Created)}
		if lastUse {
			row = append(row, a.formatTime(i.LastUsed))
		}
		return row
	}))
}

// volumeName is the name of a volume, for listings.
func volumeName(i vole.Info) string { return i.Name }
