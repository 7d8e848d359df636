package bucket

import "context"

// compact rewrites ranges of a file that consist of too many chunks.
func (n *node) compact(ctx context.Context, list pieces) error { return nil }
