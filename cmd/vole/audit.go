package main

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/cloud"
	"github.com/volehq/vole/internal/api"
)

// auditPage is how many records are asked for at a time, which bounds the memory of a long log.
const auditPage = 1000

func newAuditCmd(a *app) *cobra.Command {
	var limit int
	var cursor string
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Print the audit log of a server's organisation, newest first",
		Long: `Print who did what in the organisation of the profile in effect, newest first: every
request that was to change something, done or refused. The key needs the scope admin.

With --limit, when more records follow, the cursor of the next page is printed on
standard error. Under --json a page is an object {"records": [...], "next": "..."}.`,
		Example: `  vole audit --limit 50
  vole audit --json | jq -r '.[] | select(.status >= 400)'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("limit") && limit <= 0 {
				return usageErrorf("--limit %d: must be at least 1", limit)
			}
			server, err := a.openServer(cmd.Context(), "audit")
			if err != nil {
				return err
			}
			return a.showAuditLog(cmd.Context(), server, cursor, limit)
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 0, "most records to print (default all)")
	cmd.Flags().StringVar(&cursor, "cursor", "", "continue after the page that gave this cursor")
	noFlagFiles(cmd, "limit", "cursor")
	return cmd
}

// showAuditLog prints up to limit records (0: all), and reads no more at a time than a page.
func (a *app) showAuditLog(ctx context.Context, b *cloud.Backend, cursor string, limit int) error {
	p := a.newAuditListing(limit > 0)
	for left := limit; ; {
		n := auditPage
		if limit > 0 {
			n = min(n, left)
		}
		page, err := b.Audit(ctx, cursor, n)
		if err != nil {
			return err
		}
		for _, r := range page.Records {
			if err := p.printRecord(r); err != nil {
				return err
			}
		}
		left -= len(page.Records)
		if cursor = page.Next; cursor == "" || limit > 0 && left <= 0 {
			return p.close(cursor)
		}
	}
}

// newAuditListing prints records as the flags say; paged: of a page that --limit bounds.
func (a *app) newAuditListing(paged bool) *pagedListing[api.AuditRecord] {
	t := a.newTable("AT", "STATUS", "ACTION", "KEY", "VOLUME", "PATH", "DETAIL", "FROM", "KEY ID", "VOLUME ID").
		allowShortening("PATH", "DETAIL", "KEY ID", "VOLUME ID")
	records := newListing(a, t, func(r api.AuditRecord) string { return strconv.FormatInt(r.ID, 10) }, auditRow)
	return newPagedListing("records", paged, records)
}

// auditRow is a record as a row of a table.
func auditRow(r api.AuditRecord) []string {
	id := r.Volume
	if !driver.IsID(id) {
		id = "" // the name of a volume that did not exist
	}
	row := []string{r.At.UTC().Format(time.RFC3339), strconv.Itoa(r.Status)}
	for _, cell := range []string{r.Action, r.KeyName, r.VolumeName, r.Path, r.Detail, r.Addr, r.Key, id} {
		row = append(row, dashIfEmpty(cell))
	}
	return row
}
