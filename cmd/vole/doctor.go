package main

import (
	"errors"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

func newDoctorCmd(a *app) *cobra.Command {
	var fix bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check the volumes against the disk, and repair",
		Long: `Check the catalog against what is on disk, and what volumes are said to hold
against what they do. Every inconsistency is printed; --fix repairs. Data that no
volume claims is never deleted: it moves to lost+found in the home. With the profile of
a server, that checks the volumes of the organisation.

The exit code is 9 when something is left to repair.`,
		Example: `  vole doctor
  vole doctor --fix
  vole doctor --json | jq -r '.[].code'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.openStore(cmd.Context())
			if err != nil {
				return err
			}
			return a.printFindings("doctor", fix, func(report func(vole.Finding) error, bar *progress) error {
				return s.Check(cmd.Context(), vole.CheckOptions{Fix: fix, Progress: bar.setCount}, report)
			})
		},
	}
	cmd.Flags().BoolVar(&fix, "fix", false, "repair inconsistencies")
	return cmd
}

// printFindings prints what a check reports, as it comes. what is the command that checks. The error
// of findings that are left has the exit code of corruption, and advises --fix where that was not
// given.
func (a *app) printFindings(what string, fix bool, check func(report func(vole.Finding) error, bar *progress) error) error {
	var found, open int
	arr, bar := a.newJSONArray(), a.startProgress(&progress{thing: "volume"})
	err := check(func(f vole.Finding) error {
		found++
		if !f.Fixed {
			open++
		}
		if a.json {
			return arr.add(f)
		}
		return bar.printAboveBar(a.formatFinding(f))
	}, bar)
	bar.removeBar()
	if a.json {
		err = errors.Join(err, arr.close())
	}
	if err != nil {
		return err
	}
	if found == 0 && !a.json && !a.quiet {
		return a.printf("ok: nothing found\n")
	}
	if open == 0 {
		return nil
	}
	left := &exitError{driver.ExitCorrupt, driver.Errorf(vole.ErrCorrupt, "%s: %d of %d findings not repaired", what, open, found)}
	if fix {
		return left
	}
	return &hinted{left, "'vole " + what + " --fix' repairs what can be repaired"}
}

// formatFinding is one line: code, place, detail.
func (a *app) formatFinding(f vole.Finding) string {
	if a.quiet {
		return a.displayValue(f.Code)
	}
	place := ""
	for _, s := range []string{f.Volume, f.Path} {
		if s != "" {
			place += " " + a.displayFileName(s)
		}
	}
	mark := ""
	if f.Fixed {
		mark = " [fixed]"
	}
	return a.displayValue(f.Code) + a.displayValue(place) + ": " + a.displayValue(f.Detail) + mark
}
