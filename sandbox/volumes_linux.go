package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// planHelper makes the helper's plan, without the volumes.
func (r *supervisedSandbox) planHelper(ctx context.Context) (*plan, error) {
	config := r.c
	have := findUsableCgroups()
	lim, err := planLimits(config, have)
	if err != nil {
		return nil, err
	}
	rt, err := r.m.chooseRuntime(ctx, config.Runtime)
	if err != nil {
		return nil, err
	}
	p := &plan{
		ID: r.info.ID, Name: r.info.Name, Home: r.m.home, Scratch: filepath.Join(r.m.sandboxDir(r.info.ID), scratchDir),
		Runtime: rt, Rootless: os.Geteuid() != 0, Rootfs: config.Rootfs, Image: r.image.path, ImageDigest: r.image.digest, ImageName: r.image.name,
		Args: config.Args, Entrypoint: config.Entrypoint, HasEntrypoint: config.Entrypoint != nil, Env: config.Env, Cwd: config.Cwd, User: config.User,
		HostNetwork: config.Network == NetworkHost, Terminal: config.Terminal, Limits: lim,
	}
	if p.CgroupPath, p.Group, err = r.m.planSandboxCgroup(r.info.ID, have, lim); err != nil {
		return nil, err
	}
	r.group, r.canFreeze = p.Group, have.freezer
	// On the host's root no other user is needed, and the caller could not remove files
	// that one wrote to a volume. So ids are mapped only where they are needed.
	if p.Rootless && (config.Rootfs != "" || config.Image != "" || config.User != "") {
		p.Ranges = findIDRanges().ok
	}
	return p, r.m.checkRootApart(config)
}

// checkRootApart refuses a root that would show the home of Vole.
func (m *Manager) checkRootApart(c Config) error {
	if c.Rootfs == "" {
		return nil
	}
	return checkDirsApart(resolveExisting(c.Rootfs), c.Rootfs, m.home)
}

// checkDirsApart refuses a root, really at a path without links, that lies within the home or
// the other way round.
func checkDirsApart(real, root, homeDir string) error {
	home := resolveExisting(homeDir)
	if isBeneath(home, real) || isBeneath(real, home) {
		return driver.Errorf(vole.ErrInvalid,
			"the root %s and the home of Vole (%s) lie within one another, which would show all volumes to the sandbox", root, homeDir)
	}
	return nil
}

// attachVolumes attaches the volumes in turn, when those that are to be made are.
func (r *supervisedSandbox) attachVolumes(ctx context.Context, p *plan) error {
	volumes, err := r.findVolumes(ctx)
	if err != nil {
		return err
	}
	for i, mount := range r.c.Mounts {
		v := volumes[i]
		r.info.Mounts = append(r.info.Mounts, MountInfo{
			Volume: v.Name(), VolumeID: v.ID(), Path: mount.Path, Subpath: mount.Subpath, ReadOnly: mount.ReadOnly,
		})
		if v.Info().Kind == vole.KindDisk {
			if err := r.attachDisk(ctx, p, v, mount); err != nil {
				return err
			}
			continue
		}
		a, err := v.Attach(ctx, vole.AttachOptions{Holder: "sandbox " + r.info.Name, HostPath: true, ReadOnly: mount.ReadOnly})
		if errors.Is(err, vole.ErrUnsupported) && v.Info().Quota > 0 && !mount.ReadOnly {
			return driver.Errorf(vole.ErrUnsupported,
				"mount %s: a sandbox writes past Vole, which could not keep to the volume's quota (%v); mount it with ro, or take the quota away", mount, v.Info().Quota)
		}
		if err != nil {
			return err
		}
		r.attached = append(r.attached, a)
		if a.Info().ReadOnly != mount.ReadOnly || a.Path() == "" {
			return driver.Errorf(vole.ErrUnsupported, "mount %s: the volume has no directory on this host", mount)
		}
		p.Mounts = append(p.Mounts, planMount{Mount: mount, Source: a.Path()})
	}
	return nil
}

// findVolumes finds or makes the volume of each mount. A volume that one mount makes exists
// for the others that name it, in whatever order they are given and mounted.
func (r *supervisedSandbox) findVolumes(ctx context.Context) ([]*vole.Volume, error) {
	turns := make([]int, len(r.c.Mounts)) // indexes of mounts
	for i := range turns {
		turns[i] = i
	}
	slices.SortStableFunc(turns, func(a, b int) int { return r.c.Mounts[a].creationOrder() - r.c.Mounts[b].creationOrder() })
	volumes := make([]*vole.Volume, len(r.c.Mounts))
	for _, i := range turns {
		v, created, err := r.m.ensureVolume(ctx, r.c.Mounts[i])
		if err != nil {
			return nil, err
		}
		if created {
			r.madeVolumes = append(r.madeVolumes, v)
		}
		volumes[i] = v
	}
	return volumes, nil
}

// creationOrder orders the mounts of one volume by their needs: first those that need it to
// exist, then those that need it not to exist, those that want some kind or size, and last
// those that take any.
func (m Mount) creationOrder() int {
	switch {
	case m.Mode == ModeExisting:
		return 0
	case m.Mode == ModeCreate:
		return 1
	case m.EffectiveMode() == ModeEnsure && (m.Quota > 0 || m.Capacity > 0 || m.Kind == vole.KindDir):
		return 2
	case m.EffectiveMode() == ModeEnsure && m.Kind == "":
		return 3
	}
	return 4
}

// ensureVolume finds or makes the volume of a mount, as its mode says.
func (m *Manager) ensureVolume(ctx context.Context, mt Mount) (v *vole.Volume, created bool, err error) {
	spec := mt.formatMount()
	mode := mt.EffectiveMode()
	switch {
	case mode == ModeCreate:
		v, err = m.store.Create(ctx, mt.Volume, spec)
		return v, err == nil, err
	case mode == ModeExisting, mt.Kind == vole.KindDisk && mt.Capacity == 0:
		v, err = m.store.Get(ctx, mt.Volume)
		if err != nil {
			return nil, false, mt.explainMissing(err)
		}
		if err := spec.Fits(v.Info()); err != nil {
			return nil, false, fmt.Errorf("mount %s: %w", mt, err)
		}
		return v, false, nil
	}
	return m.store.Ensure(ctx, mt.Volume, spec)
}

// explainMissing is the error of a volume that does not exist and that the mount does not
// make, with the reason.
func (m Mount) explainMissing(err error) error {
	switch {
	case !errors.Is(err, vole.ErrNotFound):
		return err
	case m.EffectiveMode() != ModeExisting:
		return driver.Errorf(vole.ErrInvalid, "mount %s: there is no such volume, and to make a disk needs option \"size\"", m)
	case m.Mode == "":
		return &vole.Error{Op: "mount", Volume: m.Volume,
			Err: driver.Errorf(vole.ErrNotFound, "there is no such volume, and a mount with \"ro\" makes none; \"mode=ensure\" makes it empty")}
	}
	return err
}

// detachVolumes ends the attachments, the last first. Detaching measures a volume, which
// fails when the sandbox took permissions away from its files; the figure then stays
// marked as stale, with no other consequence.
func (r *supervisedSandbox) detachVolumes(ctx context.Context) error {
	r.awaitUnmount(ctx)
	var errs []error
	for _, a := range slices.Backward(r.attached) {
		if err := a.Detach(ctx); !errors.Is(err, vole.ErrPermission) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// removeMadeVolumes removes the volumes that this run made in vain, except those in use by
// now: attached, or holding anything.
func (r *supervisedSandbox) removeMadeVolumes(ctx context.Context) error {
	var errs []error
	for _, v := range slices.Backward(r.madeVolumes) {
		unused, err := r.isVolumeUnused(ctx, v)
		if err == nil && unused {
			err = v.Remove(ctx)
		}
		if err != nil && !errors.Is(err, vole.ErrInUse) && !errors.Is(err, vole.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// isVolumeUnused reports whether a volume holds nothing but the directories that this run made
// in it: its subpaths, the mount points of others, and the working directory.
func (r *supervisedSandbox) isVolumeUnused(ctx context.Context, v *vole.Volume) (ok bool, err error) {
	own := map[string]bool{"lost+found": v.Info().Kind == vole.KindDisk}
	for _, in := range r.c.Mounts {
		if in.Volume != v.Name() {
			continue
		}
		for _, made := range r.listMadePaths() {
			if !isBeneath(made, in.Path) {
				continue
			}
			for p := path.Join(in.Subpath, made[len(in.Path):]); p != "." && p != "/"; p = path.Dir(p) {
				own[strings.TrimPrefix(p, "/")] = true
			}
		}
	}
	f, err := v.FS(ctx)
	if err != nil {
		return false, err
	}
	ok, err = holdsOnlyDirs(ctx, f, ".", own)
	return ok, errors.Join(err, f.Close())
}

// listMadePaths are the directories that a run makes in the sandbox: mount points, and the
// working directory.
func (r *supervisedSandbox) listMadePaths() []string {
	var list []string
	for _, m := range r.c.Mounts {
		list = append(list, m.Path)
	}
	if r.c.Cwd != "" {
		list = append(list, path.Clean(r.c.Cwd))
	}
	return list
}

// holdsOnlyDirs reports whether all that is beneath a directory is one of some directories.
func holdsOnlyDirs(ctx context.Context, f *vole.FS, dir string, own map[string]bool) (bool, error) {
	for e, err := range f.Entries(ctx, dir) {
		if err != nil {
			return false, err
		}
		p := path.Join(dir, e.Name)
		if !e.Mode.IsDir() || !own[p] {
			return false, nil
		}
		if ok, err := holdsOnlyDirs(ctx, f, p, own); !ok {
			return false, err
		}
	}
	return true, nil
}
