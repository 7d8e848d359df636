// Package fault lets tests intercept every operation of one backend that changes a disk
// or a database: to fail it, to kill the process before or after it, or to count it.
//
// A backend has an [Injector], or a pointer to one, and runs each such operation through
// its Do. Each backend has its own, so tests that inject faults run in parallel. Outside
// tests there is no injector, or no hook in it, and Do only calls the operation.
package fault

import "sync/atomic"

// Hook is called in place of an operation. It decides whether f, the operation, runs; its
// result is the result of the operation. op is a stable name such as "mkdir" or
// "sql.commit"; object is the path or the statement that the operation works on. Hooks
// are called concurrently where the backend works concurrently.
type Hook func(op, object string, f func() error) error

// Injector holds the hook of one backend. The zero Injector, and a nil *Injector, have
// none. Methods may be called concurrently.
type Injector struct{ hook atomic.Pointer[Hook] }

// Set installs a hook; nil removes it. Operations that have begun keep the old one.
func (i *Injector) Set(h Hook) {
	if h == nil {
		i.hook.Store(nil)
		return
	}
	i.hook.Store(&h)
}

// Do runs the operation f, through the hook if one is installed.
func (i *Injector) Do(op, object string, f func() error) error {
	if i != nil {
		if h := i.hook.Load(); h != nil {
			return (*h)(op, object, f)
		}
	}
	return f()
}
