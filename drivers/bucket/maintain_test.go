package bucket

import (
	"context"
	"errors"
	"testing"
)

// TestJobWaits: who waits for a job of its own process stops when its context ends.
func TestJobWaits(t *testing.T) {
	ns := openTest(t, nil).ns
	ctx, cancel := context.WithCancel(t.Context())
	err := ns.runExclusiveJob(t.Context(), "maintain", func(context.Context) error {
		cancel()
		return ns.Sweep(ctx)
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
