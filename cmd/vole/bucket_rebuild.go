package main

import (
	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket"
)

// rebuildJSON is what a rebuild brought back, and what it could not.
type rebuildJSON struct {
	bucket.RebuildResult
	Findings []driver.Finding `json:"findings"`
}

func newBucketRebuildCmd(a *app) *cobra.Command {
	var flags bucketFlags
	cmd := &cobra.Command{
		Use:   "rebuild",
		Short: "Rebuild a lost database from the manifests in the blob store",
		Long: `Rebuild the database of a namespace from the manifests that 'vole bucket export' wrote into
its blob store, in the state of the last export. The database must be empty, and nothing
else may use it or the blob store until the command has ended. If it is interrupted, run
it again.

Everything that could not be restored is printed. A file that has lost bytes keeps all
others; reading the lost ones fails. Objects that no manifest refers to are left to the
sweeper, which removes them after its grace time. The exit code is 9 when bytes or
volumes are lost, or an older manifest had to be used.`,
		Example: `  vole bucket rebuild --dir /srv/vole
  vole bucket rebuild --db postgres://vole@db/empty --s3 https://s3.example.com/vole
  vole bucket check --dir /srv/vole`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.rebuildNamespace(cmd, &flags) },
	}
	flags.register(cmd)
	return cmd
}

// rebuildNamespace makes the database again and prints what could not be brought back. It ends with
// the exit code of corruption when that is more than nothing.
func (a *app) rebuildNamespace(cmd *cobra.Command, flags *bucketFlags) error {
	o, err := flags.namespaceOptions(true)
	if err != nil {
		return err
	}
	out := rebuildJSON{Findings: []driver.Finding{}}
	out.RebuildResult, err = bucket.Rebuild(cmd.Context(), o, func(f driver.Finding) error {
		if a.json {
			out.Findings = append(out.Findings, f)
			return nil
		}
		return a.printf("%s\n", a.formatFinding(f))
	})
	if err != nil {
		return withHint(wrapBucketError("rebuild", err), vole.ErrExists, "make a new database, or remove the SQLite file, if what is in it is not wanted any more")
	}
	err = a.printResult(out, "rebuilt %s, %s, %s, %s; %s left to the sweeper\n",
		countOf(int64(out.Orgs), "organisation"), countOf(int64(out.Volumes), "volume"), countOf(int64(out.Files), "file"),
		a.sizeInText(vole.Size(out.Used)), countOf(int64(out.Freed), "object"))
	if err != nil || out.Damaged+out.Lost == 0 {
		return err
	}
	return &exitError{driver.ExitCorrupt, driver.Errorf(vole.ErrCorrupt, "bucket rebuild: %d volumes are not as they were, and %d are lost", out.Damaged, out.Lost)}
}
