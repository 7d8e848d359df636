package conformance

import (
	"context"
	"time"

	"github.com/volehq/vole"
)

// storeOp is one method of Store that takes a context. It is run where a volume
// "vol" is.
type storeOp struct {
	name    string
	changes bool
	run     func(ctx context.Context, s *vole.Store, spec vole.Spec) error
}

var storeOps = []storeOp{
	{"Create", true, func(ctx context.Context, s *vole.Store, spec vole.Spec) error {
		_, err := s.Create(ctx, "another", spec)
		return err
	}},
	{"Ensure", true, func(ctx context.Context, s *vole.Store, spec vole.Spec) error {
		_, _, err := s.Ensure(ctx, "another", spec)
		return err
	}},
	{"Get", false, func(ctx context.Context, s *vole.Store, _ vole.Spec) error {
		_, err := s.Get(ctx, "vol")
		return err
	}},
	{"List", false, func(ctx context.Context, s *vole.Store, _ vole.Spec) error {
		_, err := s.List(ctx, vole.Filter{})
		return err
	}},
	{"Volumes", false, func(ctx context.Context, s *vole.Store, _ vole.Spec) error {
		for _, err := range s.Volumes(ctx, vole.Filter{}) {
			if err != nil {
				return err
			}
		}
		return nil
	}},
	{"Remove", true, func(ctx context.Context, s *vole.Store, _ vole.Spec) error { return s.Remove(ctx, "vol") }},
	{"Rename", true, func(ctx context.Context, s *vole.Store, _ vole.Spec) error {
		_, err := s.Rename(ctx, "vol", "another")
		return err
	}},
	{"Attachments", false, func(ctx context.Context, s *vole.Store, _ vole.Spec) error {
		_, err := s.Attachments(ctx)
		return err
	}},
	{"Check", false, func(ctx context.Context, s *vole.Store, _ vole.Spec) error {
		return s.Check(ctx, vole.CheckOptions{}, func(vole.Finding) error { return nil })
	}},
}

// volumeOp is one method of Volume that takes a context.
type volumeOp struct {
	name    string
	op      string // Error.Op
	changes bool
	run     func(ctx context.Context, v *vole.Volume) error
}

var volumeOps = []volumeOp{
	{"Refresh", "get", false, func(ctx context.Context, v *vole.Volume) error {
		_, err := v.Refresh(ctx)
		return err
	}},
	{"Update", "update", true, func(ctx context.Context, v *vole.Volume) error {
		return v.Update(ctx, vole.Update{SetLabels: vole.Labels{"k": "v"}})
	}},
	{"Measure", "measure", false, func(ctx context.Context, v *vole.Volume) error {
		_, err := v.Measure(ctx)
		return err
	}},
	{"FS", "open", false, func(ctx context.Context, v *vole.Volume) error {
		f, err := v.FS(ctx)
		if err != nil {
			return err
		}
		return f.Close()
	}},
	{"Attach", "attach", false, func(ctx context.Context, v *vole.Volume) error {
		a, err := v.Attach(ctx, vole.AttachOptions{})
		if err != nil {
			return err
		}
		return a.Detach(ctx)
	}},
	{"Remove", "remove", true, func(ctx context.Context, v *vole.Volume) error { return v.Remove(ctx) }},
	{"RemoveUnused", "remove", true, func(ctx context.Context, v *vole.Volume) error { return v.RemoveUnused(ctx, time.Now().Add(time.Hour)) }},
}

// list returns all that filter selects, in the order of the listing.
func list(ctx context.Context, s *vole.Store, filter vole.Filter) ([]vole.Info, error) {
	var all []vole.Info
	for v, err := range s.Volumes(ctx, filter) {
		if err != nil {
			return nil, err
		}
		all = append(all, v.Info())
	}
	return all, nil
}

// names returns the names of volumes, in order.
func names(infos []vole.Info) []string {
	list := make([]string, len(infos))
	for i, info := range infos {
		list[i] = info.Name
	}
	return list
}
