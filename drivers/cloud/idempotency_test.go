package cloud_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/volehq/vole/internal/api"
)

// TestCreateOnce sends the same request to two servers of one namespace at once: all
// answers tell of the same volume.
func TestCreateOnce(t *testing.T) {
	for _, e := range engines {
		if e.name != "PostgreSQL" {
			continue
		}
		opts := e.fresh(t)
		one := startServer(t, opts)
		two := startServer(t, opts)
		for round := range 20 {
			name := fmt.Sprintf("v%d", round)
			var wg sync.WaitGroup
			answers := make([]string, 6)
			for i := range answers {
				url := []string{one.url, two.url}[i%2]
				wg.Go(func() { answers[i] = createVolumeWithKey(url, one.key, name) })
			}
			wg.Wait()
			for _, a := range answers {
				if a != answers[0] || !strings.HasPrefix(a, "201 ") {
					t.Errorf("%s: the answers are %q", name, answers)
					break
				}
			}
		}
	}
}

// createVolumeWithKey makes a volume with the name as the idempotency key, and returns status and
// id, or what was said instead.
func createVolumeWithKey(url, key, name string) string {
	req, err := http.NewRequest("POST", url+"/vole/v1/volumes", strings.NewReader(`{"name":"`+name+`"}`))
	if err != nil {
		return err.Error()
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Idempotency-Key", name)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	var v struct {
		api.Volume
		Error api.Error `json:"error"`
	}
	if err := json.NewDecoder(res.Body).Decode(&v); err != nil {
		return err.Error()
	}
	return fmt.Sprint(res.StatusCode, " ", v.ID, v.Error.Message)
}
