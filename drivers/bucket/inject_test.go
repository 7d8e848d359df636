package bucket

import "github.com/volehq/vole/internal/fault"

// WithFaults returns opts for a namespace into whose operations on SQLite and a directory the
// test injects faults.
func WithFaults(opts Options, faults *fault.Injector) Options {
	opts.faults = faults
	return opts
}
