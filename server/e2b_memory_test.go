package server

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/internal/budget"
	"github.com/volehq/vole/server/internal/accounts"
)

// TestE2BMemory: the entries that a listing has read, and the volumes, count in the memory
// of the organisation, which has them back at the end.
func TestE2BMemory(t *testing.T) {
	t.Parallel()
	s := startE2B(t)
	_, key := s.key(t, accounts.NewKey{Scopes: accounts.Write})
	v := s.create(t, key, "v")
	vol, err := s.store(t).Get(t.Context(), v.ID)
	if err != nil {
		t.Fatal(err)
	}
	f, err := vol.OpenFS(t.Context(), vole.FSOptions{Batch: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 250 {
		if err := f.WriteFile(t.Context(), fmt.Sprintf("d/%03d%s", i, strings.Repeat("n", 240)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	labels := vole.Labels{}
	for i := range 64 {
		labels[fmt.Sprint("k", i)] = strings.Repeat("v", 255)
	}
	if _, err := s.store(t).Create(t.Context(), "labels", vole.Spec{Labels: labels}); err != nil {
		t.Fatal(err)
	}
	share := s.core.Options().Budget.Share(DefaultOrg)
	used := s.core.Options().Budget.Used()
	full := share.Part(8)*5 - 20_000 - used // of what buffers may have
	if err := share.Acquire(t.Context(), budget.Small, full); err != nil {
		t.Fatal(err)
	}
	status, _, body := s.content(t, v, "GET", "dir?path=/d&depth=100", "")
	if status != http.StatusTooManyRequests {
		t.Errorf("a listing without memory: %d %.200s", status, body)
	}
	if status, body := s.control(t, key, "GET", "/volumes", ""); status != http.StatusTooManyRequests {
		t.Errorf("volumes without memory: %d %.200s", status, body)
	}
	share.Release(full)
	status, _, body = s.content(t, v, "GET", "dir?path=/&depth=100", "")
	if n := strings.Count(body, `"name"`); status != http.StatusOK || n != 251 {
		t.Errorf("a listing: %d, %d entries", status, n)
	}
	if status, body := s.control(t, key, "GET", "/volumes", ""); status != http.StatusOK || strings.Count(body, `"name"`) != 2 {
		t.Errorf("volumes: %d %.200s", status, body)
	}
}
