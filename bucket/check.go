package bucket

import (
	"context"

	"github.com/volehq/vole/driver"
)

// Check implements driver.Backend.
func (b *Backend) Check(ctx context.Context, opts driver.CheckOptions, report func(driver.Finding) error) error {
	return b.usable(ctx)
}
