package native

import "github.com/volehq/vole/server/internal/core"

func (a *API) transferRoutes() []*core.Route { return nil }
