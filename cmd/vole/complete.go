package main

import (
	"context"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
)

// A completion must come while the user still waits for it (applyTimeout sees to that), and a
// shell shows only so many.
const (
	completionTime = time.Second
	completionMax  = 1000
)

// completer computes completions, as cobra asks for them.
type completer func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective)

// completeUpTo completes up to max arguments (0: any number) by list, and no files.
func completeUpTo(max int, list func(ctx context.Context, args []string, prefix string) []cobra.Completion) completer {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if max > 0 && len(args) >= max {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return list(cmd.Context(), args, prefix), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeAmong completes up to max arguments (0: any number) by names that list finds in what
// openForCompletion has opened.
func completeAmong(a *app, max int, list func(ctx context.Context) []string) completer {
	return completeUpTo(max, func(ctx context.Context, _ []string, prefix string) (found []cobra.Completion) {
		if a.openForCompletion(ctx) == nil {
			return nil
		}
		for _, name := range list(ctx) {
			if strings.HasPrefix(name, prefix) {
				found = appendCompletion(found, name, "")
			}
		}
		return found
	})
}

// completeInTurn completes the first argument by the first of these, and so on; further ones not.
func completeInTurn(each ...completer) completer {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= len(each) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return each[len(args)](cmd, nil, prefix)
	}
}

// completeFiles completes files of the host.
func completeFiles(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
}

// completeNames completes up to max names of volumes (0: any number).
func completeNames(a *app, max int) completer {
	return completeUpTo(max, func(ctx context.Context, args []string, prefix string) []cobra.Completion {
		return a.completeVolumeNames(ctx, prefix, args, "")
	})
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
		list := a.completeVolumeNames(cmd.Context(), prefix, nil, ":/")
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

// completeVolumeNames completes names of volumes that are not among given. after follows each.
func (a *app) completeVolumeNames(ctx context.Context, prefix string, given []string, after string) (list []cobra.Completion) {
	s := a.openForCompletion(ctx)
	if s == nil {
		return nil
	}
	for v, err := range s.Volumes(ctx, vole.Filter{}) {
		if err != nil || len(list) == completionMax {
			break // what was found before an error is offered
		}
		if n := v.Name(); strings.HasPrefix(n, prefix) && !slices.Contains(given, n) {
			list = appendCompletion(list, n+after, "")
		}
	}
	return list
}

// completeVolumePaths completes a path in the named volume by what is in its directory.
func (a *app) completeVolumePaths(ctx context.Context, name, prefix string) (list []cobra.Completion) {
	dir, base := path.Split(prefix)
	if dir == "" {
		dir = "/"
	}
	if a.openForCompletion(ctx) == nil {
		return nil
	}
	f, err := a.openFS(ctx, name, vole.FSOptions{ReadOnly: true})
	if err != nil {
		return nil
	}
	for e, err := range f.Entries(ctx, dir) {
		if err != nil || len(list) == completionMax {
			break
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
	return list
}

// completeFlagWith completes the value of a flag by these words.
func completeFlagWith(cmd *cobra.Command, flag string, words ...string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// noFlagFiles keeps the shell from offering files as values of these flags.
func noFlagFiles(cmd *cobra.Command, flags ...string) {
	for _, f := range flags {
		_ = cmd.RegisterFlagCompletionFunc(f, cobra.NoFileCompletions)
	}
}
