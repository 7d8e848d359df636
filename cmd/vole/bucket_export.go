package main

import (
	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/bucket"
)

func newBucketExportCmd(a *app) *cobra.Command {
	var flags bucketFlags
	var opts bucket.ExportOptions
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write manifests, from which a lost database can be rebuilt",
		Long: `Write a manifest of each volume that has changed since its last one into the blob store.
If the database is lost, 'vole bucket rebuild' rebuilds it from these manifests. Volumes
may be in use during the export: a manifest holds one state of its volume. The last two
manifests of each volume are kept; those of removed volumes are deleted.

Export more often than the grace time of the sweeper: it must not delete objects that the
newest manifest refers to.`,
		Example: `  vole bucket export --dir /srv/vole
  VOLE_BUCKET_DB=postgres://vole:secret@db/vole vole bucket export --s3 https://s3.example.com/vole
  vole bucket export --org acme --all`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.exportManifests(cmd, &flags, opts) },
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&opts.Org, "org", "", "only the volumes of this `organisation`")
	cmd.Flags().BoolVar(&opts.All, "all", false, "also volumes that have not changed")
	return cmd
}

// exportManifests writes manifests, and prints each volume as it is done.
func (a *app) exportManifests(cmd *cobra.Command, flags *bucketFlags, opts bucket.ExportOptions) error {
	opts.Done = func(m bucket.Manifest) error {
		switch {
		case a.json:
			return nil
		case a.quiet:
			return a.printf("%s/%s\n", m.Org, m.Name)
		}
		return a.printf("%s/%s: %s\n", m.Org, m.Name, a.sizeInText(vole.Size(m.Size)))
	}
	return a.withNamespace(cmd.Context(), "export", flags, func(ns *bucket.Namespace) error {
		res, err := ns.Export(cmd.Context(), opts)
		if err != nil {
			return err
		}
		return a.printResult(res, "exported %s, %d had not changed; %s removed\n",
			countOf(int64(res.Exported), "volume"), res.Unchanged, countOf(int64(res.Removed), "old manifest"))
	})
}
