// Package fault lets tests stand in the way of every operation that changes a disk
// or a database: to fail it, to kill the process before or after it, or to count it.
// Outside tests no hook is set and Do costs one atomic load.
package fault

import "sync/atomic"

// Hook is called in place of an operation. It runs f or not, and what it returns is
// what the operation returns. op is a stable name such as "mkdir" or "sql.commit",
// what is the object: a path or a statement.
type Hook func(op, what string, f func() error) error

var hook atomic.Pointer[Hook]

// Set installs a hook for the whole process; nil removes it. For tests only.
func Set(h Hook) {
	if h == nil {
		hook.Store(nil)
		return
	}
	hook.Store(&h)
}

// Do runs f, or hands it to the hook.
func Do(op, what string, f func() error) error {
	if h := hook.Load(); h != nil {
		return (*h)(op, what, f)
	}
	return f()
}
