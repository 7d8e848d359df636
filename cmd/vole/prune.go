package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
)

// prune removes unused volumes.
type prune struct {
	*app
	filter vole.Filter
	unused bool      // only volumes that are unused
	before time.Time // since then
	dryRun bool
	force  bool
}

func newPruneCmd(a *app) *cobra.Command {
	var selectors []string
	var span string
	p := prune{app: a}
	cmd := &cobra.Command{
		Use:   "prune {--unused-for TIME | --selector SELECTOR}...",
		Short: "Remove volumes that have not been used for some time",
		Long: `Remove volumes with all that they hold, and print their names: those that were not attached
or changed for some time, those with certain labels, or those that meet both conditions. A
volume counts as changed when its files, name, limits or labels change; reading files with
'vole fs' or 'vole cp' does not count as use. For volumes that are older than this record
of use, the time begins with the upgrade of Vole.

Without --unused-for and without --selector nothing is removed. On a terminal the command
lists the volumes first and asks; elsewhere it requires --force, or --dry-run, which only
lists them. Attached volumes are kept and named, as is a volume that comes into use while
the command runs.`,
		Example: `  vole prune --unused-for 30d --dry-run
  vole prune --unused-for 2w -l env=ci --force
  vole prune -l temporary`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			p.unused = cmd.Flags().Changed("unused-for")
			if p.unused {
				if p.before, err = parseUnusedFor(span, time.Now()); err != nil {
					return err
				}
			}
			if p.filter.Selector, err = vole.ParseSelector(strings.Join(selectors, ",")); err != nil {
				return err
			}
			if !p.unused && p.filter.Selector.IsZero() {
				return usageErrorf("prune: say which volumes: --unused-for TIME, --selector SELECTOR, or both")
			}
			if !p.force && !p.dryRun && !p.canAskUser() {
				return &hinted{usageErrorf("prune: there is no terminal to ask on"), "--dry-run lists what would go, --force removes it"}
			}
			s, err := a.openStore(cmd.Context())
			if err != nil {
				return err
			}
			return p.runPrune(cmd.Context(), s)
		},
	}
	f := cmd.Flags()
	f.StringVar(&span, "unused-for", "", "volumes that were not attached or changed for this `time`: 30d, 2w, 12h")
	f.StringArrayVarP(&selectors, "selector", "l", nil, "volumes with these labels: `k, k=v or k!=v`, separated by commas")
	f.BoolVar(&p.dryRun, "dry-run", false, "list what would be removed, remove nothing")
	f.BoolVarP(&p.force, "force", "f", false, "do not ask")
	_ = cmd.RegisterFlagCompletionFunc("selector", completeSelector(a))
	completeFlagWith(cmd, "unused-for", unusedSpans...)
	return cmd
}

// canAskUser reports whether there is a terminal on which somebody sees what would go, and can
// say yes.
func (p *prune) canAskUser() bool { return isTerminal(p.stdin) && isTerminal(p.stderr) }

// runPrune finds the volumes, and removes them if that is not a dry run and, on a terminal, the user
// says so.
func (p *prune) runPrune(ctx context.Context, s *vole.Store) error {
	list, err := p.findUnused(ctx, s)
	if err != nil {
		return err
	}
	if p.dryRun {
		return p.showCandidates(p.app, list)
	}
	if len(list) > 0 && !p.force {
		yes, err := p.askUser(ctx, list)
		if err != nil {
			return err
		}
		if !yes {
			p.notef("nothing was removed")
			list = nil
		}
	}
	return p.removeAll(ctx, s, list)
}

// findUnused returns the volumes that are to go, newest first, and names those that only their
// attachments save.
func (p *prune) findUnused(ctx context.Context, s *vole.Store) (list []*vole.Volume, err error) {
	holders, err := attachmentsByVolume(ctx, s)
	if err != nil {
		return nil, err
	}
	for v, err := range s.Volumes(ctx, p.filter) {
		if err != nil {
			return nil, err
		}
		info := v.Info()
		if at, ok := holders[info.ID]; ok {
			if !p.unused || !info.Created.After(p.before) {
				p.warnf("%s stays: it is attached by %s (%s)", info.Name, at.Holder, p.formatProcess(at))
			}
			continue
		}
		since := info.LastUsed
		if p.unused {
			since = p.before
		}
		unused, err := unusedSince(info, since)
		if err != nil {
			return nil, err
		}
		if unused {
			list = append(list, v)
		}
	}
	return list, nil
}

// showCandidates lists volumes on the standard output of a.
func (p *prune) showCandidates(a *app, list []*vole.Volume) error {
	out := a.newVolumeListing(false, true)
	for _, v := range list {
		if err := out.printRecord(v.Info()); err != nil {
			return err
		}
	}
	return out.close("")
}

// askUser lists the volumes on the terminal and asks whether they are to go.
func (p *prune) askUser(ctx context.Context, list []*vole.Volume) (yes bool, err error) {
	terminal := *p.app
	terminal.stdout, terminal.json, terminal.quiet = p.stderr, false, false
	if err := p.showCandidates(&terminal, list); err != nil {
		return false, err
	}
	var used vole.Size
	for _, v := range list {
		used += v.Info().Used
	}
	fmt.Fprintf(p.stderr, "Remove %s, with the %s in them? [y/N] ", countOf(int64(len(list)), "volume"), used.Human())
	line, err := bufio.NewReader(io.LimitReader(p.openInput(ctx, p.stdin), 1024)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return true, nil
	}
	return false, nil
}

// removeAll removes volumes that were not used since they were listed, and prints them. Between the
// listing and a removal any time may pass, while the user thinks: RemoveUnused compares the time of
// last use with the one that was listed, under the locks of the volume.
func (p *prune) removeAll(ctx context.Context, s *vole.Store, list []*vole.Volume) error {
	volumes := map[string]*vole.Volume{}
	var infos []vole.Info
	for _, v := range list {
		info := v.Info()
		volumes[info.ID] = v
		infos = append(infos, info)
	}
	return forEachRecord(ctx, p.app, infos, volumeName, func(info vole.Info) (bool, error) {
		err := p.removeFiles(ctx, s, info.ID, volumes[info.ID].RemoveUnused(ctx, info.LastUsed))
		switch {
		case errors.Is(err, vole.ErrInUse):
			p.warnf("%s stays: %v", info.Name, err)
			return false, nil
		case errors.Is(err, vole.ErrNotFound): // another was quicker
			return false, nil
		}
		return err == nil, err
	})
}
