package main

import (
	"context"
	"path"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
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
		return a.completeVolumeNames(cmd.Context(), prefix, args), cobra.ShellCompDirectiveNoFileComp
	}
}

// completePaths completes NAME:/path for up to max arguments. With host, files of the
// host are completed too.
func completePaths(a *app, max int, host bool) completer {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if max > 0 && len(args) >= max {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		if name, p, ok := splitVolumePath(prefix); ok {
			return a.completeVolumePaths(cmd.Context(), name, p), noSpace
		}
		var list []cobra.Completion
		for _, n := range a.completeVolumeNames(cmd.Context(), prefix, nil) {
			list = append(list, n+":/")
		}
		if host && (len(list) == 0 || prefix == "") {
			return list, cobra.ShellCompDirectiveDefault
		}
		return list, noSpace
	}
}

// shellActive are the characters by which a command line does something else than to hand
// a word over: runs a command, ends one, redirects it, expands a variable or the history.
const shellActive = "$`;&|<>()!\\"

// appendCompletion adds a completion to list, unless it has what a terminal acts on, what ends a line,
// or what a shell acts on: the shell would show it and put it into the command line. Not
// every shell quotes what it puts there (bash leaves what several completions begin with as
// it is), and the next completion evaluates the line.
func appendCompletion(list []cobra.Completion, s, description string) []cobra.Completion {
	if !isCompletable(s) {
		return list
	}
	// bash shows descriptions as parts of what it completes.
	if description = escapeControls(description); description != "" && !strings.ContainsAny(description, shellActive) {
		s = cobra.CompletionWithDesc(s, description)
	}
	return append(list, s)
}

// isCompletable reports whether a text has nothing that a terminal or a shell acts on.
func isCompletable(s string) bool {
	return !needsEscape(s, nil) && !strings.ContainsAny(s, shellActive)
}

// withCompletionTimeout runs fn on the volumes of a home that is there, opened for reading, for as
// long as a completion may take. A completion makes nothing, and has no place for an
// error: what was found before it is offered.
func (a *app) withCompletionTimeout(ctx context.Context, fn func(ctx context.Context, s *vole.Store) error) {
	ctx, cancel := context.WithTimeout(ctx, completionTime)
	defer cancel()
	if a.checkHome(ctx) != nil {
		return
	}
	s, err := a.openStore(ctx, true)
	if err != nil {
		return
	}
	defer s.Close()
	_ = fn(ctx, s)
}

func (a *app) completeVolumeNames(ctx context.Context, prefix string, not []string) (list []cobra.Completion) {
	given := make(map[string]bool, len(not))
	for _, n := range not {
		given[n] = true
	}
	a.withCompletionTimeout(ctx, func(ctx context.Context, s *vole.Store) error {
		for v, err := range s.Volumes(ctx, vole.Filter{}) {
			if err != nil || len(list) == completionMax {
				return err
			}
			if n := v.Name(); strings.HasPrefix(n, prefix) && !given[n] {
				list = appendCompletion(list, n, "")
			}
		}
		return nil
	})
	return list
}

func (a *app) completeVolumePaths(ctx context.Context, name, prefix string) (list []cobra.Completion) {
	dir, base := path.Split(prefix)
	if dir == "" {
		dir = "/"
	}
	a.withCompletionTimeout(ctx, func(ctx context.Context, s *vole.Store) error {
		v, err := s.Get(ctx, name)
		if err != nil {
			return err
		}
		f, err := v.OpenFS(ctx, vole.FSOptions{ReadOnly: true})
		if err != nil {
			return err
		}
		defer f.Close()
		for e, err := range f.Entries(ctx, dir) {
			if err != nil || len(list) == completionMax {
				return err
			}
			if !strings.HasPrefix(e.Name, base) {
				continue
			}
			c := name + ":" + dir + e.Name
			if e.IsDir() {
				c += "/"
			}
			list = appendCompletion(list, c, "")
		}
		return nil
	})
	return list
}

// noFlagFiles keeps the shell from offering files as values of these flags.
func noFlagFiles(cmd *cobra.Command, flags ...string) {
	for _, f := range flags {
		cmd.RegisterFlagCompletionFunc(f, cobra.NoFileCompletions)
	}
}
