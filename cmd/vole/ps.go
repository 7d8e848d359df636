package main

import (
	"cmp"
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/volehq/vole/sandbox"
)

func newPsCmd(a *app) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "ps [-a]",
		Short: "List sandboxes, newest first",
		Long: `List the sandboxes that live, newest first; with -a also the last hundred that ended.

STATUS is created, starting, running, draining (asked to stop), paused, stopped (ended)
with the exit code, or crashed (vole or the runtime died under it).`,
		Example: `  vole ps
  vole ps -a --json | jq '.[] | select(.exit_code != 0)'
  vole stop $(vole ps -q)`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.printSandboxes(a.listSandboxes(cmd.Context(), all))
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also those that ended")
	return cmd
}

// listSandboxes lists the sandboxes of the home; all: also those that have ended.
func (a *app) listSandboxes(ctx context.Context, all bool) ([]sandbox.Info, error) {
	return listInHome(ctx, a, func(m *sandbox.Manager, ctx context.Context) ([]sandbox.Info, error) { return m.List(ctx, all) })
}

// printSandboxes lists sandboxes, or returns the error of finding them.
func (a *app) printSandboxes(list []sandbox.Info, err error) error {
	t := a.newTable("NAME", "STATUS", "RUNTIME", "VOLUMES", "COMMAND", "CREATED").allowShortening("VOLUMES", "COMMAND")
	return printList(a, list, err, t, func(i sandbox.Info) string { return i.Name }, func(i sandbox.Info) []string {
		return []string{i.Name, sandboxStatus(i), dashIfEmpty(i.Runtime), sandboxMounts(i), sandboxCommand(i), a.formatTime(i.Created)}
	})
}

// dashIfEmpty is a cell of a table, which a dash fills that has nothing.
func dashIfEmpty(s string) string { return cmp.Or(s, "-") }

// sandboxStatus shows the state of a sandbox, and the exit code of one that has ended.
func sandboxStatus(i sandbox.Info) string {
	s := string(i.Status)
	if i.ExitCode != nil {
		s += " (" + strconv.Itoa(*i.ExitCode) + ")"
	}
	return s
}

// sandboxMounts shows which volumes a sandbox has, and where.
func sandboxMounts(i sandbox.Info) string {
	var list []string
	for _, m := range i.Mounts {
		s := m.Volume + ":" + m.Path
		if m.ReadOnly {
			s += ":ro"
		}
		list = append(list, s)
	}
	return dashIfEmpty(strings.Join(list, " "))
}

// sandboxCommand shows a command in one short line that is safe to print.
func sandboxCommand(i sandbox.Info) string {
	const most = 40
	var list []string
	for _, arg := range i.Command {
		if arg == "" || strings.ContainsAny(arg, " \t\n\"'") || needsEscape(arg, nil) {
			arg = strconv.Quote(arg)
		}
		list = append(list, arg)
	}
	r := []rune(strings.Join(list, " "))
	if len(r) > most {
		r = append(r[:most-1], '…')
	}
	return dashIfEmpty(string(r))
}

// completeSandboxes completes the names of sandboxes that want selects; all: also of those that
// have ended.
func completeSandboxes(a *app, all bool, max int, want func(sandbox.Info) bool) completer {
	return completeAmong(a, max, func(ctx context.Context) (names []string) {
		list, _ := a.listSandboxes(ctx, all)
		for _, i := range list {
			if want(i) {
				names = append(names, i.Name)
			}
		}
		return names
	})
}
