package local

import ("context"; "github.com/volehq/vole/driver")
type Options struct{ ReadOnly bool }
func DefaultHome() (string, error) { return "", nil }
func Open(ctx context.Context, home string, o Options) (driver.Backend, error) { return nil, nil }
