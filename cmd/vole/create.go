package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
)

// createFlags are the flags of create.
type createFlags struct {
	kind, size, quota, from string
	labels                  []string
	existOK                 bool
	fill                    fillOptions
}

func newCreateCmd(a *app) *cobra.Command {
	var f createFlags
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a volume",
		Long: `Create a volume and print its name. The home is made too if it does not exist.

A name is 1 to 128 letters, digits, '.', '_' and '-', and starts with a letter or digit.

A dir volume keeps files as files. With a quota, writes that would exceed it fail; since
Vole cannot count the writes of programs that bypass it, 'vole attach' and 'vole run'
attach such a volume read-only. The quota also limits the number of entries and the bytes
of names, link targets and attributes ('vole help cli' has the numbers). A disk volume is
one image that holds ext4, as large as --size says; on the disk it takes only as much
space as its content. 'vole set' makes it larger later.

--from fills the volume with the content of a directory or tar file, or of a tar stream
when it is "-" (plain, gzip, bzip2, zstd, xz or lz4). Modes, times, links, holes and
extended attributes of users are kept; owners, setuid and setgid bits, devices and, in
disk volumes, capabilities and access lists only for root. Anything that cannot be kept
causes a warning and is counted; with --strict no volume is made then. A stream that lacks
its end makes no volume. A disk volume without --size gets as large as its content needs,
and a bit more. If the command fails or is killed, no volume is left.

With --exist-ok the command succeeds if a volume of that name already exists and has the
kind, limits and labels that the flags ask for. It never changes that volume.`,
		Example: `  vole create pip-cache
  vole create pip-cache --quota 2G -l team=ml -l env=dev
  vole create pip-cache --quota 2G --exist-ok    # succeed if it exists
  vole create vm-7 --kind disk --size 20G
  vole create rootfs --kind disk --from rootfs.tar.zst
  docker export box | vole create box --kind disk --from -`,
		Args: exactArgs(1, "the volume's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := parseSpec(f.kind, f.size, f.quota, f.labels)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("from") {
				return a.createFilled(cmd.Context(), args[0], spec, f.existOK, f.from, f.fill)
			}
			return a.createVolume(cmd.Context(), args[0], spec, f.existOK)
		},
	}
	f.register(a, cmd)
	return cmd
}

// register adds the flags to a command.
func (f *createFlags) register(a *app, cmd *cobra.Command) {
	s := cmd.Flags()
	s.StringVar(&f.kind, "kind", "", "dir or disk (default dir, or disk with --size)")
	s.StringVar(&f.size, "size", "", "capacity of a disk volume, e.g. 20G (with --from default as much as the content needs)")
	s.StringVar(&f.quota, "quota", "", "most bytes a dir volume may hold, e.g. 512M (default no limit)")
	s.StringVar(&f.from, "from", "", "fill it with the content of this `directory`, tar file, or stream (-)")
	s.BoolVar(&f.fill.strict, "strict", false, "make no volume if anything that --from names cannot be kept")
	s.BoolVar(&f.fill.truncated, "allow-truncated", false, "accept a tar stream that lacks its end, or is empty, as complete")
	s.StringArrayVarP(&f.labels, "label", "l", nil, "label `KEY=VALUE`; may be given several times")
	s.BoolVar(&f.existOK, "exist-ok", false, "succeed if a matching volume already exists")
	completeFlagWith(cmd, "kind", "dir", "disk")
	noFlagFiles(cmd, "size", "quota")
	_ = cmd.RegisterFlagCompletionFunc("label", completeLabels(a))
}

// createVolume makes an empty volume.
func (a *app) createVolume(ctx context.Context, name string, spec vole.Spec, existOK bool) error {
	s, err := a.openOrMakeStore(ctx, vole.Options{})
	if err != nil {
		return err
	}
	var v *vole.Volume
	if existOK {
		v, _, err = s.Ensure(ctx, name, spec)
	} else {
		v, err = s.Create(ctx, name, spec)
		err = withHint(err, vole.ErrExists, "--exist-ok accepts an existing volume")
	}
	return a.printVolume(v, err)
}

// printVolume prints the volume that a command made or changed, unless err says that it failed:
// its name, or all under --json.
func (a *app) printVolume(v *vole.Volume, err error) error {
	if err != nil {
		return err
	}
	return a.printResult(v.Info(), "%s\n", v.Name())
}

// parseSpec makes a Spec of the flags of create.
func parseSpec(kind, size, quota string, labels []string) (spec vole.Spec, err error) {
	spec.Kind = vole.Kind(kind)
	if kind == "" && size != "" {
		spec.Kind = vole.KindDisk
	}
	if spec.Capacity, err = parseLimit("size", size); err != nil {
		return spec, err
	}
	if spec.Quota, err = parseLimit("quota", quota); err != nil {
		return spec, err
	}
	spec.Labels, err = parseLabels(labels)
	return spec, err
}

// parseLimit parses a size that a flag gives; "" is 0, and 0 is refused, because it
// would read as no limit at all.
func parseLimit(flag, s string) (vole.Size, error) {
	if s == "" {
		return 0, nil
	}
	n, err := vole.ParseSize(s)
	if err == nil && n <= 0 {
		err = usageErrorf("%s: must be at least 1 byte", s)
	}
	if err != nil {
		return 0, usageErrorf("--%s: %v", flag, err)
	}
	return n, nil
}

// parseLabels parses k=v. A label without "=" has an empty value.
func parseLabels(list []string) (vole.Labels, error) {
	if len(list) == 0 {
		return nil, nil
	}
	l := make(vole.Labels, len(list))
	for _, s := range list {
		k, v, _ := strings.Cut(s, "=")
		if _, twice := l[k]; twice {
			return nil, usageErrorf("--label: %q is given twice", k)
		}
		l[k] = v
	}
	return l, nil
}
