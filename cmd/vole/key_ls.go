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
		Long: `List the API keys of the organisation, newest first, including those that are no longer
valid. VOLUMES are the names of the only volumes that a key sees, or the ids of volumes
that were removed; --json has ids.`,
		Example: `  vole key ls
  vole key ls --json | jq -r '.[] | select(.revoked | not) | .name'`,
		RunE: a.withServer("key ls", func(ctx context.Context, server *cloud.Backend, _ []string) error {
			keys, err := server.Keys(ctx)
			if err != nil {
				return err
			}
			return a.printKeys(keys, a.volumeNamesByID(ctx, keys))
		}),
	}
}

// volumeNamesByID returns the names, by id, of the volumes that keys are limited to, as far as
// they can be had: the list is of use without them.
func (a *app) volumeNamesByID(ctx context.Context, keys []api.Key) map[string]string {
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
	for v, err := range a.store.Volumes(ctx, vole.Filter{}) {
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

// printKeys prints keys; names has those of volumes by their ids.
func (a *app) printKeys(keys []api.Key, names map[string]string) error {
	t := a.newTable("ID", "NAME", "STATUS", "SCOPES", "VOLUMES", "EXPIRES", "LAST USED", "CREATED").allowShortening("SCOPES", "VOLUMES")
	return newListing(a, t, func(k api.Key) string { return k.ID }, func(k api.Key) []string {
		var volumes []string
		for _, id := range k.Volumes {
			volumes = append(volumes, cmp.Or(names[id], id))
		}
		return []string{k.ID, k.Name, keyStatus(k, time.Now()), dashIfEmpty(strings.Join(scopeNames(k.Scopes), ",")), cmp.Or(strings.Join(volumes, ","), "all"),
			timestampOrNever(k.Expires), timestampOrNever(k.LastUsed), a.formatTime(k.Created)}
	}).printAll(keys)
}

// timestampOrNever shows a time that may not be.
func timestampOrNever(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format(time.RFC3339)
}

// completeKeys completes keys that are good: by their names, and by their ids where these
// are asked for or names are not enough.
func completeKeys(a *app) completer {
	return completeUpTo(0, func(ctx context.Context, _ []string, prefix string) (list []cobra.Completion) {
		server, err := a.openServer(ctx, "key ls")
		if err != nil {
			return nil
		}
		keys, _ := server.Keys(ctx)
		named := map[string]int{} // how many keys that are not revoked have a name
		for _, k := range keys {
			if k.Revoked.IsZero() {
				named[k.Name]++
			}
		}
		for _, k := range keys {
			switch {
			case keyStatus(k, time.Now()) != "good":
			case named[k.Name] == 1 && strings.HasPrefix(k.Name, prefix):
				list = appendCompletion(list, k.Name, k.ID)
			case strings.HasPrefix(k.ID, prefix) && (prefix != "" || named[k.Name] > 1):
				list = appendCompletion(list, k.ID, k.Name)
			}
		}
		return list
	})
}
