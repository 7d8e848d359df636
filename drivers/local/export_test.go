//go:build unix

package local

import "github.com/volehq/vole/internal/fault"

// WithFaults returns opts for a backend into whose operations the test injects faults.
func WithFaults(opts Options, faults *fault.Injector) Options {
	opts.faults = faults
	return opts
}
