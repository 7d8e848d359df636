package main

import (
	"context"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/local"
)

// A completion must come while the user still waits for it, and a shell shows only
// so many.
const (
	completionTime = time.Second
	completionMax  = 1000
)

// completer computes completions, as cobra asks for them.
type completer func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective)

// completeNames completes up to max names of volumes (0: any number).
func completeNames(a *app, max int) completer {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if max > 0 && len(args) >= max {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.volumeNames(cmd.Context(), prefix, args), cobra.ShellCompDirectiveNoFileComp
	}
}

// completePaths completes NAME:/path for up to max arguments. With host, files of the
// host are completed too.
func completePaths(a *app, max int, host bool) completer {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		const noSpace = cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
		if max > 0 && len(args) >= max {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		if name, p, ok := splitRef(prefix); ok {
			return a.volumePaths(cmd.Context(), name, p), noSpace
		}
		var list []cobra.Completion
		for _, n := range a.volumeNames(cmd.Context(), prefix, nil) {
			list = append(list, n+":/")
		}
		if host && (len(list) == 0 || prefix == "") {
			return list, cobra.ShellCompDirectiveDefault
		}
		return list, noSpace
	}
}

// openExisting opens the home for reading if it is there; a completion makes nothing.
func (a *app) openExisting(ctx context.Context) (*vole.Store, bool) {
	home := a.home
	if home == "" {
		var err error
		if home, err = local.DefaultHome(); err != nil {
			return nil, false
		}
	}
	if _, err := os.Stat(filepath.Join(home, "catalog.db")); err != nil {
		return nil, false
	}
	s, err := vole.Open(ctx, vole.Options{Home: home, ReadOnly: true})
	return s, err == nil
}

func (a *app) volumeNames(ctx context.Context, prefix string, not []string) []cobra.Completion {
	ctx, cancel := context.WithTimeout(ctx, completionTime)
	defer cancel()
	s, ok := a.openExisting(ctx)
	if !ok {
		return nil
	}
	defer s.Close()
	given := make(map[string]bool, len(not))
	for _, n := range not {
		given[n] = true
	}
	var list []cobra.Completion
	for v, err := range s.Volumes(ctx, vole.Filter{}) {
		if err != nil || len(list) == completionMax {
			break
		}
		if n := v.Name(); strings.HasPrefix(n, prefix) && !given[n] {
			list = append(list, n)
		}
	}
	return list
}

func (a *app) volumePaths(ctx context.Context, name, prefix string) []cobra.Completion {
	ctx, cancel := context.WithTimeout(ctx, completionTime)
	defer cancel()
	s, ok := a.openExisting(ctx)
	if !ok {
		return nil
	}
	defer s.Close()
	v, err := s.Get(ctx, name)
	if err != nil {
		return nil
	}
	f, err := v.OpenFS(ctx, vole.FSOptions{ReadOnly: true})
	if err != nil {
		return nil
	}
	defer f.Close()
	dir, base := path.Split(prefix)
	if dir == "" {
		dir = "/"
	}
	var list []cobra.Completion
	for e, err := range f.Entries(ctx, dir) {
		if err != nil || len(list) == completionMax {
			break
		}
		if !strings.HasPrefix(e.Name, base) || unprintable(e.Name) {
			continue
		}
		c := name + ":" + dir + e.Name
		if e.IsDir() {
			c += "/"
		}
		list = append(list, c)
	}
	return list
}

// noFlagFiles keeps the shell from offering files as values of these flags.
func noFlagFiles(cmd *cobra.Command, flags ...string) {
	for _, f := range flags {
		cmd.RegisterFlagCompletionFunc(f, cobra.NoFileCompletions)
	}
}
