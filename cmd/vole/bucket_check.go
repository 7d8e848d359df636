package main

import (
	"errors"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/bucket"
)

func newBucketCheckCmd(a *app) *cobra.Command {
	var flags bucketFlags
	var org string
	var fix bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check the database against itself and the blob store, and repair",
		Long: `Check the rows of a namespace's database against one another, and against the objects
in the blob store. Every inconsistency is printed; --fix repairs them. Volumes may be in
use during the check. The exit code is 9 when inconsistencies remain.`,
		Example: `  vole bucket check --dir /srv/vole
  vole bucket check --org acme --fix
  vole bucket check --json | jq -r '.[].code'`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.checkNamespace(cmd, &flags, org, fix) },
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&org, "org", "", "only this `organisation`")
	cmd.Flags().BoolVar(&fix, "fix", false, "repair inconsistencies")
	return cmd
}

// checkNamespace checks a namespace, or one organisation of it, and prints what it finds.
func (a *app) checkNamespace(cmd *cobra.Command, flags *bucketFlags, org string, fix bool) error {
	flags.opts.ReadOnly = !fix
	ctx, opts := cmd.Context(), vole.CheckOptions{Fix: fix}
	return a.withNamespace(ctx, "check", flags, func(ns *bucket.Namespace) error {
		return a.printFindings("bucket check", fix, func(report func(vole.Finding) error, _ *progress) error {
			if org == "" {
				return ns.Audit(ctx, opts, report)
			}
			b, err := ns.Org(ctx, org)
			if err != nil {
				return err
			}
			return errors.Join(b.Check(ctx, opts, report), b.Close())
		})
	})
}
