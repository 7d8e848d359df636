package bucket

import (
	"context"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/audit"
)

// Check implements driver.Backend. It examines the organisation's rows and objects while others go
// on writing: see package audit.
func (b *Backend) Check(ctx context.Context, opts driver.CheckOptions, report func(driver.Finding) error) error {
	defer b.ns.metrics.observeSince("check", time.Now())
	if err := b.checkOpen(ctx); err != nil {
		return err
	}
	a, err := b.ns.newAudit(ctx, opts, report)
	if err != nil {
		return err
	}
	return a.CheckOrg(b.org)
}

// Audit is Check of all organisations, and of rows and objects that belong to none.
func (ns *Namespace) Audit(ctx context.Context, opts driver.CheckOptions, report func(driver.Finding) error) error {
	a, err := ns.newAudit(ctx, opts, report)
	if err != nil {
		return err
	}
	return a.CheckAll()
}

// newAudit returns an audit that reports to report, and with opts.Fix repairs.
func (ns *Namespace) newAudit(ctx context.Context, opts driver.CheckOptions, report func(driver.Finding) error) (*audit.Audit, error) {
	if opts.Fix && ns.opts.ReadOnly {
		return nil, errReadOnly
	}
	return audit.New(ctx, ns.db, ns.blobs, ns.opts.ReadOnly, opts.Fix, report), nil
}

// idDest returns where the column of a row goes that is an id.
func idDest(id *[]byte) []any { return []any{id} }
