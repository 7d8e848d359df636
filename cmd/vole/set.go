package main

import (
	"github.com/spf13/cobra"
	"github.com/volehq/vole"
)

func newSetCmd(a *app) *cobra.Command {
	var (
		quota, size    string
		label, unlabel []string
	)
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Change a volume's limits and labels",
		Long:  `Change limits and labels of a volume, all in one step, and print its name.`,
		Example: `  vole set pip-cache --quota 4G
  vole set pip-cache --quota none
  vole set pip-cache -l env=prod --unlabel owner`,
		Args:              exactArgs(1, "the volume's name"),
		ValidArgsFunction: completeNames(a, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			change, err := parseUpdate(quota, size, label, unlabel)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			v, err := a.openVolume(ctx, args[0])
			if err != nil {
				return err
			}
			return a.printVolume(v, v.Update(ctx, change))
		},
	}
	f := cmd.Flags()
	f.StringVar(&quota, "quota", "", "new quota of a dir volume, or none")
	f.StringVar(&size, "size", "", "new capacity of a disk volume, which only grows")
	f.StringArrayVarP(&label, "label", "l", nil, "set label `KEY=VALUE`; may be given several times")
	f.StringArrayVar(&unlabel, "unlabel", nil, "take label `KEY` away; may be given several times")
	noFlagFiles(cmd, "quota", "size")
	_ = cmd.RegisterFlagCompletionFunc("label", completeLabels(a))
	_ = cmd.RegisterFlagCompletionFunc("unlabel", completeLabelKeys(a))
	return cmd
}

// parseUpdate makes an Update of the flags of set.
func parseUpdate(quota, size string, label, unlabel []string) (u vole.Update, err error) {
	if quota == "" && size == "" && len(label) == 0 && len(unlabel) == 0 {
		return u, &hinted{usageErrorf("set: nothing to change"), "give --quota, --size, --label or --unlabel"}
	}
	u, err = parseLimitChange(quota, size, label)
	u.RemoveLabels = unlabel
	return u, err
}

// parseLimitChange makes an Update of the limits and labels that set and clone take.
func parseLimitChange(quota, size string, labels []string) (u vole.Update, err error) {
	if quota == "none" {
		u.ClearQuota = true
	} else if u.Quota, err = parseLimit("quota", quota); err != nil {
		return u, err
	}
	if u.Capacity, err = parseLimit("size", size); err != nil {
		return u, err
	}
	u.SetLabels, err = parseLabels(labels)
	return u, err
}
