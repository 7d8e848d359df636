// Package conformance is the conformance suite of Vole: what a [driver.Backend] and
// the [vole.Store] over it promise, as tests. Every backend runs the same suite, so
// that a program may move from one to another and find nothing changed but speed.
//
// A backend's test hands [Run] a [Harness]:
//
//	func TestConformance(t *testing.T) {
//		conformance.Run(t, conformance.Harness{Open: openFresh})
//	}
//
// The suite goes through package vole only, because that is what programs call; a
// broken promise of either layer shows. What a backend claims in [driver.Caps] must
// work, and what it does not claim must be refused with ErrUnsupported.
package conformance

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/volehq/vole"
)

// Harness says how to make what is tested.
type Harness struct {
	// Open returns a Store over a fresh backend without volumes. The suite checks
	// its consistency and closes it when the test ends. It may be called by many
	// tests at once.
	Open func(t *testing.T) *vole.Store

	// Another returns a second Store over the volumes of s, as another process
	// would open it; s may be closed by then. The suite closes it. Nil: not possible.
	Another func(t *testing.T, s *vole.Store) *vole.Store

	// ReadOnly returns a Store over the volumes of s that may not change them. The
	// suite closes it. Nil: not possible.
	ReadOnly func(t *testing.T, s *vole.Store) *vole.Store

	// Spec is what kind of volumes the tests of files make. The zero Spec is a dir
	// volume. A capacity must be 64 MiB at least.
	Spec vole.Spec

	// Root returns the directory of this host that holds vol's files, by which the
	// suite changes them behind the backend's back. Nil: there is no such place.
	Root func(t *testing.T, s *vole.Store, vol *vole.Volume) string

	// TimeStep is the finest difference of file times that the backend keeps.
	// Default: one nanosecond.
	TimeStep time.Duration

	// Groups are the groups of tests to run. Default: all.
	Groups []string
}

// test is one test of the suite. Its env is fresh.
type test struct {
	name string
	run  func(t *testing.T, e *env)
}

// groups are the tests by subject, one list per file.
var groups = []struct {
	name  string
	tests []test
}{
	{"Lifecycle", lifecycleTests},
	{"List", listTests},
	{"Stale", staleTests},
	{"Update", updateTests},
	{"Draft", draftTests},
	{"Validate", validateTests},
	{"Labels", labelTests},
	{"Attach", attachTests},
	{"HostPath", hostPathTests},
	{"Lease", leaseTests},
	{"Clone", cloneTests},
	{"Used", usedTests},
	{"Caps", capsTests},
	{"Read", readTests},
	{"Write", writeTests},
	{"Open", openTests},
	{"File", fileTests},
	{"Corners", cornerTests},
	{"Unlinked", unlinkedTests},
	{"Dir", dirTests},
	{"Remove", removeTests},
	{"Rename", renameTests},
	{"Copy", copyTests},
	{"CopyOnto", copyOntoTests},
	{"Link", linkTests},
	{"Meta", metaTests},
	{"Xattr", xattrTests},
	{"Std", stdTests},
	{"Escape", escapeTests},
	{"Race", raceTests},
	{"Concurrent", concurrentTests},
	{"Context", contextTests},
	{"Closed", closedTests},
	{"Removed", removedTests},
	{"Quota", quotaTests},
	{"QuotaShared", quotaSharedTests},
	{"Metadata", metadataTests},
	{"Modes", modeTests},
	{"Random", randomTests},
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	if h.Spec.Kind == "" {
		h.Spec.Kind = vole.KindDir
	}
	if h.TimeStep == 0 {
		h.TimeStep = time.Nanosecond
	}
	for _, g := range groups {
		if h.Groups != nil && !slices.Contains(h.Groups, g.name) {
			continue
		}
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			for _, tc := range g.tests {
				t.Run(tc.name, func(t *testing.T) {
					t.Parallel()
					tc.run(t, open(t, h))
				})
			}
		})
	}
}

// env is one backend under test.
type env struct {
	h         Harness
	store     *vole.Store
	caps      vole.Caps
	unchecked bool // the backend is not checked when the test ends
}

// open opens a fresh backend, which is checked and closed when t ends.
func open(t *testing.T, h Harness) *env {
	t.Helper()
	e := &env{h: h, store: h.Open(t)}
	e.caps = e.store.Caps()
	t.Cleanup(func() { e.finish(t) })
	return e
}

// finish checks that the backend is consistent, usage included, and closes it.
func (e *env) finish(t *testing.T) {
	t.Helper()
	s := e.store
	if _, err := s.Attachments(context.Background()); errors.Is(err, vole.ErrClosed) {
		// The test itself closed it: look at what it left with fresh eyes.
		if e.h.Another == nil {
			return
		}
		s = e.h.Another(t, e.store)
	}
	if !e.unchecked {
		e.check(t, s)
	}
	if err := s.Close(); err != nil {
		t.Errorf("closing the store: %v", err)
	}
}

// check fails t for everything that a consistency check of s finds.
func (e *env) check(t *testing.T, s *vole.Store) {
	t.Helper()
	err := s.Check(context.Background(), vole.CheckOptions{}, func(f vole.Finding) error {
		t.Errorf("check: %s volume=%s path=%s: %s", f.Code, f.Volume, f.Path, f.Detail)
		return nil
	})
	if err != nil {
		t.Errorf("check: %v", err)
	}
}

// another returns a second Store over the same volumes, closed when t ends.
func (e *env) another(t *testing.T) *vole.Store {
	t.Helper()
	if e.h.Another == nil {
		t.Skip("the backend cannot be opened twice")
	}
	s := e.h.Another(t, e.store)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing the second store: %v", err)
		}
	})
	return s
}

// need skips t unless the backend claims what it tests.
func need(t *testing.T, claimed bool, what string) {
	t.Helper()
	if !claimed {
		t.Skipf("the backend does not claim %s", what)
	}
}

// create makes a volume of the harness's spec.
func (e *env) create(t *testing.T, name string) *vole.Volume {
	t.Helper()
	return e.createSpec(t, name, e.h.Spec)
}

func (e *env) createSpec(t *testing.T, name string, spec vole.Spec) *vole.Volume {
	t.Helper()
	v, err := e.store.Create(t.Context(), name, spec)
	if err != nil {
		t.Fatalf("create %s: %v", name, err)
	}
	return v
}
