//go:build unix

package disk

import (
	"testing"
	"time"
)

// A call that removes a volume holds its image. Another call of the process awaits it, however
// long a slow disk takes, instead of saying that the volume is in use.
func TestRemovalsOfOneProcess(t *testing.T) {
	t.Parallel()
	v := newVolume(t)
	first, err := v.HoldForRemoval(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan error, 1)
	go func() {
		release, err := v.HoldForRemoval(t.Context())
		if err == nil {
			release()
		}
		second <- err
	}()
	select {
	case err := <-second:
		t.Errorf("while another call removes it: %v", err)
	case <-time.After(holdPatience + 100*time.Millisecond):
	}
	first()
	if err := <-second; err != nil {
		t.Error(err)
	}
}
