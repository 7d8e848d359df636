package main

import (
	"context"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/sandbox"
)

// noSpace is for what a user goes on typing behind.
const noSpace = cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp

// completeMounts completes NAME:/path[:option,...]. The path is one in the sandbox, so that
// directories of its root are offered, if it is a directory of the host.
func completeMounts(a *app, f *runFlags) completer {
	return func(cmd *cobra.Command, _ []string, prefix string) (list []cobra.Completion, _ cobra.ShellCompDirective) {
		name, rest, ok := strings.Cut(prefix, ":")
		if !ok {
			return a.completeVolumeNames(cmd.Context(), prefix, nil, ":/"), noSpace
		}
		guest, opts, ok := strings.Cut(rest, ":")
		if ok {
			return a.completeMountOptions(cmd.Context(), name, name+":"+guest+":", opts), noSpace
		}
		if f.config.Image != "" {
			return nil, noSpace
		}
		return completeSubdirectories(f.config.Rootfs, guest, name+":"), noSpace
	}
}

// completeSubdirectories completes directories beneath a root of the host.
func completeSubdirectories(root, prefix, before string) (list []cobra.Completion) {
	dir, base := path.Split(prefix)
	if !path.IsAbs(dir) {
		return nil
	}
	if root == "" {
		root = "/"
	}
	d, err := os.Open(filepath.Join(root, dir))
	if err != nil {
		return nil
	}
	defer d.Close()
	entries, _ := d.ReadDir(completionMax)
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), base) {
			list = appendCompletion(list, before+dir+e.Name()+"/", "")
		}
	}
	return list
}

// completeMountOptions completes the last of the options of a mount of a volume.
func (a *app) completeMountOptions(ctx context.Context, volume, before, opts string) (list []cobra.Completion) {
	given := strings.Split(opts, ",")
	last := given[len(given)-1]
	before += strings.TrimSuffix(opts, last)
	if dir, ok := strings.CutPrefix(last, "subpath="); ok {
		for _, p := range a.completeVolumePaths(ctx, volume, "/"+strings.TrimPrefix(dir, "/")) {
			if dir, ok := strings.CutPrefix(p, volume+":/"); ok && strings.HasSuffix(dir, "/") {
				list = appendCompletion(list, before+"subpath="+dir, "")
			}
		}
		return list
	}
	used := map[string]bool{}
	for _, opt := range given[:len(given)-1] {
		key, _, _ := strings.Cut(opt, "=")
		used[key] = true
	}
	for _, opt := range sandbox.MountOptions {
		if key, _, _ := strings.Cut(opt, "="); strings.HasPrefix(opt, last) && !used[key] {
			list = appendCompletion(list, before+opt, "")
		}
	}
	return list
}

// completeSelector completes k, k=v and k!=v, separated by commas, by the labels of all
// volumes. Only the part behind the last comma is completed, and what stands before it is given back
// with each completion, because a shell replaces the whole word. Where one key is left, its values
// are offered too, so that one key press less leads to them.
func completeSelector(a *app) completer {
	return func(cmd *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		i := strings.LastIndex(prefix, ",") + 1
		before, last := prefix[:i], prefix[i:]
		key, _, hasValue := strings.Cut(last, "=")
		equals := "="
		if k, negated := strings.CutSuffix(key, "!"); negated && hasValue {
			key, equals = k, "!="
		}
		known := a.knownLabels(cmd.Context())
		values := known.sortedValues(before+key+equals, key, strings.TrimPrefix(last, key+equals))
		if hasValue {
			return values, noSpace
		}
		list := known.sortedKeys(before, last, "")
		if len(list) == 1 && len(known[last]) > 0 {
			list = append(list, known.sortedValues(before+last+"=", last, "")...)
		}
		return list, noSpace
	}
}

// completeLabels completes KEY=VALUE by the labels of all volumes.
func completeLabels(a *app) completer {
	return func(cmd *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		known := a.knownLabels(cmd.Context())
		if key, value, ok := strings.Cut(prefix, "="); ok {
			return known.sortedValues(key+"=", key, value), cobra.ShellCompDirectiveNoFileComp
		}
		return known.sortedKeys("", prefix, "="), noSpace
	}
}

// completeLabelKeys completes keys of labels of the volume that is the first argument, or of
// all volumes.
func completeLabelKeys(a *app) completer {
	return completeUpTo(0, func(ctx context.Context, args []string, prefix string) []cobra.Completion {
		return a.knownLabels(ctx, args...).sortedKeys("", prefix, "")
	})
}

// labelSet has the values of each key of labels.
type labelSet map[string]map[string]bool

// knownLabels are the labels of the named volumes, or of all.
func (a *app) knownLabels(ctx context.Context, names ...string) labelSet {
	known := labelSet{}
	s := a.openForCompletion(ctx)
	if s == nil {
		return known
	}
	for _, name := range names {
		if v, err := s.Get(ctx, name); err == nil {
			known.addLabels(v.Info().Labels)
		}
	}
	if len(names) > 0 {
		return known
	}
	for v, err := range s.Volumes(ctx, vole.Filter{}) {
		if err != nil {
			break
		}
		known.addLabels(v.Info().Labels)
	}
	return known
}

// addLabels adds labels, up to as many keys and values of each as a shell is shown.
func (known labelSet) addLabels(labels vole.Labels) {
	for k, v := range labels {
		if known[k] == nil && len(known) < completionMax {
			known[k] = map[string]bool{}
		}
		if known[k] != nil && len(known[k]) < completionMax {
			known[k][v] = true
		}
	}
}

// sortedKeys are the keys that begin with prefix, with what goes before and after each.
func (known labelSet) sortedKeys(before, prefix, after string) (list []cobra.Completion) {
	for _, k := range slices.Sorted(maps.Keys(known)) {
		if strings.HasPrefix(k, prefix) && isCompletable(k) {
			list = append(list, before+k+after)
		}
	}
	return list
}

// sortedValues are those of a key that begin with prefix and that a selector can be written with.
func (known labelSet) sortedValues(before, key, prefix string) (list []cobra.Completion) {
	for _, v := range slices.Sorted(maps.Keys(known[key])) {
		if strings.HasPrefix(v, prefix) && v != "" && !strings.Contains(v, ",") && isCompletable(v) {
			list = append(list, before+v)
		}
	}
	return list
}
