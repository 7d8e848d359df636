//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/volehq/vole"
)

// verifyTimeout is the most that opening and judging a home may take: nothing that a
// dead process left may make anyone wait.
const verifyTimeout = 60 * time.Second

// reopenHome opens the home as the next user would, and runs fn.
func reopenHome(ctx context.Context, home string, fn func(context.Context, *vole.Store) error) error {
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	s, err := vole.Open(ctx, vole.Options{Home: home})
	if err != nil {
		return fmt.Errorf("reopen: %w", err)
	}
	return errors.Join(fn(ctx, s), s.Close())
}

// readLane reads the state of the volumes whose names begin with prefix.
func readLane(ctx context.Context, s *vole.Store, prefix string) (model, error) {
	m := model{}
	for v, err := range s.Volumes(ctx, vole.Filter{}) {
		if err != nil {
			return nil, err
		}
		if !strings.HasPrefix(v.Name(), prefix) {
			continue
		}
		have, err := readVolume(ctx, v)
		if err != nil {
			return nil, fmt.Errorf("%s (%s): %w", v.Name(), v.ID(), err)
		}
		m[v.Name()] = have
	}
	return m, nil
}

// readVolume reads a volume's files, which must be whole, and checks its usage.
func readVolume(ctx context.Context, v *vole.Volume) (volume, error) {
	have := volume{id: v.ID(), label: v.Info().Labels[labelKey], files: map[string]int64{}}
	f, err := v.OpenFS(ctx, vole.FSOptions{ReadOnly: true})
	if err != nil {
		return have, err
	}
	defer f.Close()
	var used vole.Size
	var walk func(dir string) error
	walk = func(dir string) error {
		list, err := f.ReadDir(ctx, dir)
		if err != nil {
			return err
		}
		for _, e := range list {
			p := path.Join(dir, e.Name)
			switch {
			case e.IsDir() && p == "dir":
				err = walk(p)
			case e.Mode.IsRegular():
				used += vole.Size(e.Size)
				have.files[p], err = readTag(ctx, f, p)
			default:
				err = errors.New("nobody made that")
			}
			if err != nil {
				return fmt.Errorf("%s: %w", p, err)
			}
		}
		return nil
	}
	if err := walk("."); err != nil {
		return have, err
	}
	return have, checkUsage(ctx, v, used)
}

// checkUsage: the figure is right or says that it may not be, and measuring makes it right.
func checkUsage(ctx context.Context, v *vole.Volume, used vole.Size) error {
	info, err := v.Refresh(ctx)
	if err != nil {
		return err
	}
	if !info.UsedStale && info.Used != used {
		return fmt.Errorf("usage is %d, said to be exact, and the files hold %d", info.Used, used)
	}
	if info.UsedStale {
		if info, err = v.Measure(ctx); err != nil {
			return err
		}
		if info.Used != used || info.UsedStale {
			return fmt.Errorf("measured %d (stale: %v), and the files hold %d", info.Used, info.UsedStale, used)
		}
	}
	return nil
}

// checkHome runs the consistency check, which must find nothing.
func checkHome(ctx context.Context, s *vole.Store) error {
	var found []error
	err := s.Check(ctx, vole.CheckOptions{}, func(f vole.Finding) error {
		found = append(found, fmt.Errorf("check found %s %s %s: %s", f.Code, f.Volume, f.Path, f.Detail))
		return nil
	})
	return errors.Join(append(found, err)...)
}

// verifyIdle judges a home that no process but this one has open: the check finds
// nothing, nothing is attached, and there is nothing in the home but its volumes.
func verifyIdle(ctx context.Context, s *vole.Store, home string) error {
	atts, err := s.Attachments(ctx)
	if err != nil {
		return err
	}
	if len(atts) > 0 {
		return fmt.Errorf("all holders are dead, and %d attachments are left, the first by %s", len(atts), atts[0].Holder)
	}
	ids := map[string]bool{}
	for v, err := range s.Volumes(ctx, vole.Filter{}) {
		if err != nil {
			return err
		}
		ids[v.ID()] = true
	}
	return errors.Join(checkHome(ctx, s), refuseLeftovers(home, ids))
}

// refuseLeftovers reads the home without Vole: each volume has its directory without
// half-written files, and there is no other directory.
func refuseLeftovers(home string, ids map[string]bool) error {
	var errs []error
	left := func(format string, args ...any) { errs = append(errs, fmt.Errorf("left over: "+format, args...)) }
	list := func(elem ...string) []os.DirEntry {
		entries, err := os.ReadDir(filepath.Join(append([]string{home}, elem...)...))
		if err != nil {
			errs = append(errs, err)
		}
		return entries
	}
	dirs := list("volumes")
	for _, d := range dirs {
		if !ids[d.Name()] {
			left("volumes/%s belongs to no volume", d.Name())
		}
	}
	if len(dirs) < len(ids) {
		errs = append(errs, fmt.Errorf("%d volumes have %d directories", len(ids), len(dirs)))
	}
	for id := range ids {
		for _, e := range list("volumes", id) {
			switch e.Name() {
			case "data":
			case "tmp":
				for _, t := range list("volumes", id, "tmp") {
					left("volumes/%s/tmp/%s", id, t.Name())
				}
			default:
				left("volumes/%s/%s", id, e.Name())
			}
		}
	}
	for _, e := range list("locks") {
		if n := e.Name(); n != "schema" && n != "processes" && !ids[n] {
			left("locks/%s", n)
		}
	}
	// This process has a file there itself, once it has changed something.
	if own := list("locks", "processes"); len(own) > 1 {
		left("locks/processes holds %d files, and one process is alive", len(own))
	}
	for _, e := range list("lost+found") {
		left("lost+found/%s", e.Name())
	}
	return errors.Join(errs...)
}

// checkNamesUsable creates and removes a volume under each free name.
func checkNamesUsable(ctx context.Context, s *vole.Store, names []string) error {
	for _, name := range names {
		v, err := s.Create(ctx, name, vole.Spec{})
		if errors.Is(err, vole.ErrExists) {
			// Taken, then: it must be there for everyone to get.
			if _, gerr := s.Get(ctx, name); gerr == nil {
				continue
			}
		}
		if err == nil {
			err = v.Remove(ctx)
		}
		if err != nil {
			return fmt.Errorf("name %s is blocked: %w", name, err)
		}
	}
	return nil
}
