package driver_test

import (
	"testing"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
)

// Every kind of error has a code of the HTTP API.
func TestClassesHaveAPICodes(t *testing.T) {
	for _, c := range driver.Classes() {
		if api.CodeKind(c.Code) != c.Err {
			t.Errorf("the API has no code for %v: %s stands for %v", c.Err, c.Code, api.CodeKind(c.Code))
		}
	}
}
