package main

import (
	"cmp"
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/cloud"
	"github.com/volehq/vole/internal/api"
)

func newKeyLsCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the API keys of the organisation",
		Long: `List the API keys of the organisation, newest first, those that are not good any more too.
VOLUMES are the names of the only volumes that a key sees, or the ids of those that are
gone; --json has ids.`,
		Example: `  vole key ls
  vole key ls --json | jq -r '.[] | select(.revoked | not) | .name'`,
		Args:              exactArgs(0, ""),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withCloud(cmd.Context(), "key ls", func(b *cloud.Backend) error {
				keys, err := b.Keys(cmd.Context())
				if err != nil {
					return err
				}
				return a.printKeys(keys, a.volumeNamesByID(cmd.Context(), b, keys))
			})
		},
	}
}

// volumeNamesByID returns the names, by id, of the volumes that keys are limited to, as far as
// they can be had: the list is of use without them.
func (a *app) volumeNamesByID(ctx context.Context, b *cloud.Backend, keys []api.Key) map[string]string {
	wanted := map[string]bool{}
	for _, k := range keys {
		for _, id := range k.Volumes {
			wanted[id] = true
		}
	}
	names := map[string]string{}
	if len(wanted) == 0 || a.json || a.quiet {
		return names
	}
	for v, err := range vole.New(b).Volumes(ctx, vole.Filter{}) {
		if err != nil {
			break
		}
		if wanted[v.ID()] {
			names[v.ID()] = v.Name()
		}
		if len(names) == len(wanted) {
			break
		}
	}
	return names
}

func (a *app) printKeys(keys []api.Key, names map[string]string) error {
	if a.json {
		arr := a.newJSONArray()
		for _, k := range keys {
			if err := arr.add(keyJSON{k}); err != nil {
				return err
			}
		}
		return arr.close()
	}
	if a.quiet {
		for _, k := range keys {
			if err := a.printf("%s\n", k.ID); err != nil {
				return err
			}
		}
		return nil
	}
	t := a.newTable("ID", "NAME", "STATUS", "SCOPES", "VOLUMES", "EXPIRES", "LAST USED", "CREATED").allowShortening("SCOPES", "VOLUMES")
	for _, k := range keys {
		volumes := "all"
		if len(k.Volumes) > 0 {
			var shown []string
			for _, id := range k.Volumes {
				shown = append(shown, cmp.Or(names[id], id))
			}
			volumes = strings.Join(shown, ",")
		}
		if err := t.addRow(k.ID, k.Name, keyStatus(k, time.Now()), dashIfEmpty(strings.Join(scopeNames(k.Scopes), ",")), volumes,
			formatTimestamp(k.Expires, "never"), formatTimestamp(k.LastUsed, "never"), a.formatTime(k.Created)); err != nil {
			return err
		}
	}
	return t.close()
}

// formatTimestamp shows a time that may not be.
func formatTimestamp(t time.Time, none string) string {
	if t.IsZero() {
		return none
	}
	return t.UTC().Format(time.RFC3339)
}

// completeKeys completes keys that are good: by their names, and by their ids where these
// are asked for or names are not enough.
func completeKeys(a *app) completer {
	return func(cmd *cobra.Command, args []string, prefix string) (list []cobra.Completion, _ cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		_ = a.withCloud(ctx, "key ls", func(b *cloud.Backend) error {
			keys, err := b.Keys(ctx)
			called := map[string]int{}
			for _, k := range keys {
				if k.Revoked.IsZero() {
					called[k.Name]++
				}
			}
			for _, k := range keys {
				switch {
				case keyStatus(k, time.Now()) != "good":
				case called[k.Name] == 1 && strings.HasPrefix(k.Name, prefix):
					list = appendCompletion(list, k.Name, k.ID)
				case strings.HasPrefix(k.ID, prefix) && (prefix != "" || called[k.Name] > 1):
					list = appendCompletion(list, k.ID, k.Name)
				}
			}
			return err
		})
		return list, cobra.ShellCompDirectiveNoFileComp
	}
}
