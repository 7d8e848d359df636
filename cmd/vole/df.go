package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

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
	Limit     vole.Size  `json:"limit,omitempty"`     // quota or capacity; absent: none
	Free      *vole.Size `json:"free,omitempty"`      // of the limit; absent when that is, or of a disk in use
	Allocated *vole.Size `json:"allocated,omitempty"` // storage that a disk's image takes; absent when in use
}

func newDfCmd(a *app) *cobra.Command {
	var measure bool
	cmd := &cobra.Command{
		Use:   "df [NAME...]",
		Short: "Show what volumes hold and may hold",
		Long: `Show what volumes hold against their limit; all volumes when none is named.

The limit of a disk volume is the size of its image. Its free space is that which its file
system reports, which needs some space for itself; while the volume is attached for
writing, it is not known. --json has the storage that the image takes.

"~" before a figure says that it may be wrong: a program used the files by their path
on the host. --measure counts such volumes, or the named ones, again.`,
		Example: `  vole df
  vole df pip-cache --measure`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: completeNames(a, 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.openStore(cmd.Context())
			if err != nil {
				return err
			}
			return a.showDiskUsage(cmd.Context(), s, args, measure)
		},
	}
	a.addBytesFlag(cmd)
	cmd.Flags().BoolVar(&measure, "measure", false, "count again: the named volumes, or all whose figure may be wrong")
	return cmd
}

// showDiskUsage prints the usage of the named volumes, or of all.
func (a *app) showDiskUsage(ctx context.Context, s *vole.Store, names []string, measure bool) error {
	p := a.newUsageListing()
	var errs []error
	for _, name := range names {
		v, err := s.Get(ctx, name)
		if err == nil {
			err = a.usageOfVolume(ctx, p, v, measure)
		}
		errs = append(errs, err)
	}
	if len(names) == 0 {
		for v, err := range s.Volumes(ctx, vole.Filter{}) {
			if err != nil {
				return err
			}
			err = a.usageOfVolume(ctx, p, v, measure && v.Info().UsedStale)
			if !errors.Is(err, vole.ErrNotFound) { // removed meanwhile
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(append(errs, p.close())...)
}

// usageOfVolume prints the usage of one volume.
func (a *app) usageOfVolume(ctx context.Context, p *listing[usageJSON], v *vole.Volume, measure bool) error {
	info := v.Info()
	if measure {
		var err error
		if info, err = v.Measure(ctx); err != nil {
			return err
		}
	}
	u := usageJSON{ID: info.ID, Name: info.Name, Kind: info.Kind, Used: info.Used, UsedStale: info.UsedStale, Limit: limitOrNone(info)}
	if info.Kind != vole.KindDisk {
		if u.Limit > 0 {
			free := max(0, u.Limit-u.Used)
			u.Free = &free
		}
		return p.printRecord(u)
	}
	st, err := spaceInDisk(ctx, v)
	if st != nil {
		free, allocated := vole.Size(st.Free), vole.Size(st.Allocated)
		u.Free, u.Allocated = &free, &allocated
	}
	return errors.Join(p.printRecord(u), err)
}

// spaceInDisk asks the file system of a disk volume how much is free; nil: it is attached for
// writing, and its free space changes without notice.
func spaceInDisk(ctx context.Context, v *vole.Volume) (*vole.Statfs, error) {
	list, err := v.Attachments(ctx)
	if err != nil || slices.ContainsFunc(list, func(at vole.AttachmentInfo) bool { return !at.ReadOnly }) {
		return nil, err
	}
	f, err := v.OpenFS(ctx, vole.FSOptions{ReadOnly: true})
	if errors.Is(err, vole.ErrInUse) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	st, err := f.Statfs(ctx)
	return &st, errors.Join(err, f.Close())
}

// newUsageListing prints what volumes hold and may hold.
func (a *app) newUsageListing() *listing[usageJSON] {
	t := a.newTable("NAME", "KIND", "USED", "LIMIT", "FREE", "USE%")
	return newListing(a, t, func(u usageJSON) string { return u.Name }, func(u usageJSON) []string {
		free, percent := "-", "-"
		if u.Free != nil {
			taken := u.Used
			if u.Kind == vole.KindDisk {
				taken = u.Limit - *u.Free // the file system's own part with it
			}
			free, percent = a.formatSize(*u.Free), fmt.Sprintf("%.0f%%", 100*float64(taken)/float64(u.Limit))
		}
		return []string{u.Name, string(u.Kind), a.formatUsage(u.Used, u.UsedStale), a.formatLimit(u.Limit), free, percent}
	})
}
