package ext4_test

import (
	"testing"

	"github.com/volehq/vole/ext4/internal/oracle"
)

func TestMain(m *testing.M) { oracle.Main(m) }
