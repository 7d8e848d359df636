//go:build unix

package local

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestQueryPlans makes sure that no query of a hot path reads all volumes.
func TestQueryPlans(t *testing.T) {
	b, err := Open(t.Context(), filepath.Join(t.TempDir(), "home"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for q, args := range map[string][]any{
		selectByID:     {"x"},
		selectByName:   {"x"},
		selectPage:     {"x", "", 10},
		selectRemoving: nil,
		`SELECT id, state, owner FROM volumes WHERE state <> 'ready'`:                                              nil,
		`SELECT ` + attachmentColumns + ` FROM attachments a JOIN volumes v ON v.id = a.volume WHERE a.volume = ?`: {"x"},
	} {
		rows, err := b.db.Read().QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+q, args...)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for ; rows.Next(); n++ {
			var id, parent, unused int
			var detail string
			if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(detail, "SCAN") && !strings.Contains(detail, "volumes_unsettled") {
				t.Errorf("%s\n  is done by: %s", q, detail)
			}
			if strings.Contains(detail, "TEMP B-TREE") {
				t.Errorf("%s\n  sorts: %s", q, detail)
			}
		}
		if rows.Close(); n == 0 {
			t.Errorf("no plan for %s", q)
		}
	}
}
