package main

import (
	"context"
	"errors"
	"maps"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/transfer"
)

func newCloneCmd(a *app) *cobra.Command {
	var (
		quota, size string
		labels      []string
	)
	cmd := &cobra.Command{
		Use:   "clone NAME NEW-NAME",
		Short: "Make a volume with the content of another one",
		Long: `Make a volume with the kind, limits, labels and content of another one, and print its
name. From then on the two change independently.

Where the backend can clone, which is behind a server with a namespace, no bytes are moved
and a large volume takes no longer than a small one. Elsewhere the files are copied, with
all that 'vole cp' keeps. Changes made during the copy may or may not be in the new
volume, and a disk volume must not be attached for writing. If the command fails or is
killed, no new volume is left.`,
		Example: `  vole clone base try-7
  vole clone base try-8 --quota 4G -l owner=ci`,
		Args:              exactArgs(2, "the volume's name and that of the new one"),
		ValidArgsFunction: completeNames(a, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			change, err := parseLimitChange(quota, size, labels)
			if err != nil {
				return err
			}
			s, err := a.openStore(cmd.Context())
			if err != nil {
				return err
			}
			return a.printVolume(a.cloneVolume(cmd.Context(), s, args[0], args[1], change))
		},
	}
	f := cmd.Flags()
	f.StringVar(&quota, "quota", "", "quota of the new dir volume, or none (default that of NAME)")
	f.StringVar(&size, "size", "", "capacity of the new disk volume (default that of NAME)")
	f.StringArrayVarP(&labels, "label", "l", nil, "label `KEY=VALUE` besides those of NAME; may be given several times")
	noFlagFiles(cmd, "quota", "size")
	_ = cmd.RegisterFlagCompletionFunc("label", completeLabels(a))
	return cmd
}

// specOfClone is the spec of a volume with the change applied to it.
func specOfClone(of vole.Info, change vole.Update) vole.Spec {
	spec := vole.Spec{Kind: of.Kind, Quota: of.Quota, Capacity: of.Capacity, Labels: maps.Clone(of.Labels)}
	if change.Quota != 0 || change.ClearQuota {
		spec.Quota = change.Quota
	}
	if change.Capacity != 0 {
		spec.Capacity = change.Capacity
	}
	if len(change.SetLabels) > 0 && spec.Labels == nil {
		spec.Labels = vole.Labels{}
	}
	maps.Copy(spec.Labels, change.SetLabels)
	return spec
}

// cloneVolume makes a volume of what another holds: by the backend, or else by a copy of all files.
func (a *app) cloneVolume(ctx context.Context, s *vole.Store, name, newName string, change vole.Update) (*vole.Volume, error) {
	from, err := s.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	spec := specOfClone(from.Info(), change)
	if s.Caps().Clones {
		return from.Clone(ctx, newName, spec)
	}
	bar := a.newProgress()
	var stats transfer.Stats
	v, err := s.Build(ctx, newName, spec, func(v *vole.Volume) (err error) {
		stats, err = a.copyAllFiles(ctx, s, from, v, bar)
		return err
	})
	bar.finishBar(err == nil, stats)
	if err != nil {
		return nil, withHint(err, vole.ErrInUse, "'vole inspect %s' shows who has it attached", name)
	}
	_, err = v.Refresh(ctx) // what it holds now
	return v, err
}

// copyAllFiles copies all files of a volume into a new one.
func (a *app) copyAllFiles(ctx context.Context, s *vole.Store, from, to *vole.Volume, bar *progress) (stats transfer.Stats, err error) {
	src, err := from.OpenFS(ctx, vole.FSOptions{ReadOnly: true})
	if err != nil {
		return stats, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	dst, err := to.OpenFS(ctx, vole.FSOptions{Batch: true})
	if err != nil {
		return stats, err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	bar.setTotal(int64(from.Info().Used))
	caps := s.Caps()
	opts := transfer.Options{Op: "clone", Owner: caps.Chown, Root: true, Warn: bar.warnf, Progress: bar}
	if caps.Backend == "cloud" {
		opts.Parallel = farFiles
	}
	return transfer.Copy(ctx, transfer.Volume(dst), ".", transfer.Volume(src), ".", opts)
}
