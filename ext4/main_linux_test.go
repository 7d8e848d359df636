package ext4_test

import (
	"testing"

	"github.com/volehq/vole/internal/testing/ext4oracle"
)

func TestMain(m *testing.M) { ext4oracle.Main(m) }
