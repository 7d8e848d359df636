package servers_test

import (
	"os"
	"testing"

	"github.com/volehq/vole/internal/testing/servers"
)

func TestMain(m *testing.M) { os.Exit(servers.Main(m)) }
