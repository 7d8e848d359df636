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

// auditPage is how many records are asked for at a time.
const auditPage = 1000

// auditJSON is one page of the audit log.
type auditJSON struct {
	Records []api.AuditRecord `json:"records"`
	Next    string            `json:"next"`
}

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
		Args:              exactArgs(0, ""),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("limit") && limit <= 0 {
				return usageErrorf("--limit %d: must be at least 1", limit)
			}
			return a.withCloud(cmd.Context(), "audit", func(b *cloud.Backend) error {
				return a.showAuditLog(cmd.Context(), b, cursor, limit)
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 0, "most records to print (default all)")
	cmd.Flags().StringVar(&cursor, "cursor", "", "continue after the page that gave this cursor")
	noFlagFiles(cmd, "limit", "cursor")
	return cmd
}

// showAuditLog prints up to limit records (0: all), and reads no more at a time than a page.
func (a *app) showAuditLog(ctx context.Context, b *cloud.Backend, cursor string, limit int) error {
	p := a.newAuditPrinter(limit > 0)
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

// auditPrinter prints a stream of records: a table, ids, a JSON array, or a page.
type auditPrinter struct {
	a     *app
	t     *table
	arr   *jsonArray
	paged bool
	page  auditJSON
}

func (a *app) newAuditPrinter(paged bool) *auditPrinter {
	p := &auditPrinter{a: a, paged: paged, page: auditJSON{Records: []api.AuditRecord{}}}
	switch {
	case a.json && !paged:
		p.arr = a.newJSONArray()
	case !a.json && !a.quiet:
		p.t = a.newTable("AT", "STATUS", "ACTION", "KEY", "VOLUME", "PATH", "DETAIL", "FROM", "KEY ID", "VOLUME ID").
			allowShortening("PATH", "DETAIL", "KEY ID", "VOLUME ID")
	}
	return p
}

func (p *auditPrinter) printRecord(r api.AuditRecord) error {
	switch {
	case p.arr != nil:
		return p.arr.add(r)
	case p.a.json:
		p.page.Records = append(p.page.Records, r)
		return nil
	case p.t == nil:
		return p.a.printf("%d\n", r.ID)
	}
	id := r.Volume
	if !driver.IsID(id) {
		id = "" // the name of one that there was not
	}
	cell := dashIfEmpty
	return p.t.addRow(r.At.UTC().Format(time.RFC3339), strconv.Itoa(r.Status), cell(r.Action), cell(r.KeyName), cell(r.VolumeName), cell(r.Path),
		cell(r.Detail), cell(r.Addr), cell(r.Key), cell(id))
}

func (p *auditPrinter) close(next string) error {
	switch {
	case p.arr != nil:
		return p.arr.close()
	case p.a.json:
		p.page.Next = next
		return p.a.printJSON(p.page)
	}
	if p.paged && next != "" {
		defer p.a.notef("more records follow; continue with --cursor %s", next)
	}
	if p.t != nil {
		return p.t.close()
	}
	return nil
}
