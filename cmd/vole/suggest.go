package main

import (
	"context"
	"errors"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/volehq/vole"
	"github.com/volehq/vole/internal/profile"
)

// closestName returns that of the candidates which is most like a word; "": none is what
// somebody who typed the word can have meant.
func closestName(word string, candidates []string) (best string) {
	// A third of the letters may be wrong, and two of a longer word.
	least := min(2, (len(word)+1)/3) + 1
	for _, c := range candidates {
		if d := editDistance(word, c, least); d > 0 && d < least {
			best, least = c, d
		}
	}
	return best
}

// editDistance is how many letters must be inserted, removed, replaced or swapped with
// their neighbour to make b of a; limit when that is no less. It is the optimal string alignment
// distance, computed row by row: row[j] is the distance of the first i letters of a from the first
// j of b, and a swap looks two rows back.
func editDistance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	var before []int // the row for i-2 letters of a
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return min(limit, last[len(b)])
}

// suggestName is advice for a word that is none of the names: the one that was perhaps meant, or
// else what otherwise says.
func suggestName(word string, names []string, otherwise string) string {
	if meant := closestName(word, names); meant != "" {
		return didYouMean(meant)
	}
	return otherwise
}

// didYouMean is advice for a mistyped word.
func didYouMean(word string) string { return "did you mean " + word + "?" }

// suggestFlag adds the flag that was perhaps meant to the error for an unknown one.
func suggestFlag(cmd *cobra.Command, err error) error {
	unknown := (*pflag.NotExistError)(nil)
	if !errors.As(err, &unknown) || len(unknown.GetSpecifiedName()) < 2 {
		return err
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	hint := "'" + cmd.CommandPath() + " --help' lists the flags"
	if name := closestName(unknown.GetSpecifiedName(), names); name != "" {
		hint = didYouMean("--" + name)
	}
	return &hinted{err, hint}
}

// mostSuggested is among how many volumes one is looked for that was perhaps meant.
const mostSuggested = 2000

// suggestVolume adds the volume that was perhaps meant to the errors for unknown ones.
func suggestVolume(ctx context.Context, s *vole.Store, err error) error {
	if !errors.Is(err, vole.ErrNotFound) || ctx.Err() != nil {
		return err
	}
	var names []string
	list := flattenErrors(err)
	for i, one := range list {
		e := (*vole.Error)(nil)
		if !errors.Is(one, vole.ErrNotFound) || !errors.As(one, &e) || e.Volume == "" {
			continue
		}
		if names == nil {
			names = volumeNamesToSuggest(ctx, s)
		}
		if name := closestName(e.Volume, names); name != "" {
			list[i] = replaceHint(one, didYouMean(name))
		}
	}
	return errors.Join(list...)
}

// replaceHint gives an error another line of advice, and keeps its exit code.
func replaceHint(err error, hint string) error {
	if e := (*exitError)(nil); errors.As(err, &e) {
		return &exitError{e.code, &hinted{e.err, hint}}
	}
	return &hinted{err, hint}
}

// volumeNamesToSuggest are names of volumes, as far as they can be had.
func volumeNamesToSuggest(ctx context.Context, s *vole.Store) []string {
	names := []string{}
	for v, err := range s.Volumes(ctx, vole.Filter{}) {
		if err != nil || len(names) == mostSuggested {
			break
		}
		names = append(names, v.Name())
	}
	return names
}

// suggestProfile adds the profile that was perhaps meant to the error for an unknown one.
func suggestProfile(err error, name string) error {
	if !errors.Is(err, vole.ErrNoSuch) || name == "" {
		return err
	}
	f, ferr := profile.LoadDefault()
	if ferr != nil {
		return err
	}
	names := profileNames(f)
	if meant := closestName(name, names); meant != "" && !slices.Contains(names, name) {
		err = &hinted{err, didYouMean(meant)}
	}
	return err
}

// helpHint shows the help of a command, but refuses it for a name that is no command: cobra
// takes "vole clon --help" for the help of vole.
func (a *app) helpHint(show func(*cobra.Command, []string)) func(*cobra.Command, []string) {
	return func(cmd *cobra.Command, args []string) {
		if words := cmd.Flags().Args(); cmd.HasSubCommands() && len(words) > 0 {
			a.helpErr = runCommandGroup(cmd, words)
			return
		}
		show(cmd, args)
	}
}
