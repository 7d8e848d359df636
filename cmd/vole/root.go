package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Groups of commands in the help.
const (
	groupVolumes   = "volumes"
	groupFiles     = "files"
	groupSandboxes = "sandboxes"
	groupServers   = "servers"
	groupOther     = "other"
)

func newRootCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "vole",
		Short: "Named volumes for sandboxes",
		Long: `Vole keeps named volumes: trees of files that outlive the sandboxes, virtual
machines and programs that use them. 'vole help topics' lists what there is to read.`,
		Example: `  vole create pip-cache --quota 2G
  vole cp ./wheels pip-cache:/wheels
  vole ls
  vole rm pip-cache`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, args []string) error {
			a.started = true
			if err := refuseEmptyArgs(cmd, args); err != nil {
				return err
			}
			if err := refuseEmptyFlags(cmd); err != nil {
				return err
			}
			return a.applyTimeout(cmd)
		},
		RunE: runCommandGroup,
		Args: cobra.ArbitraryArgs,
	}
	f := cmd.PersistentFlags()
	f.StringVar(&a.home, "home", "", "`directory` that holds the volumes, on this host (default $VOLE_HOME, else /var/lib/vole for root, $XDG_DATA_HOME/vole or ~/.local/share/vole for others)")
	f.BoolVar(&a.foreignHome, "foreign-home", false, "allow a home that belongs to another user, who decides what is in it (refused otherwise, also to root)")
	f.StringVar(&a.profile, "profile", "", "`name` of a profile, a server's or local (default $VOLE_URL, $VOLE_PROFILE, $VOLE_HOME, or the current one; see 'vole profile --help')")
	cmd.RegisterFlagCompletionFunc("profile", completeProfiles(0))
	f.BoolVar(&a.json, "json", false, "print JSON, errors too ('vole help cli-json' describes it)")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "print names only, and nothing where a command only says what it did")
	f.DurationVar(&a.timeout, "timeout", 0, "give up after this `time`, e.g. 10s (default never; not for run, logs, and a program that attach has started)")
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.Version = buildVersion().Version // gives --version
	cmd.SetVersionTemplate("vole {{.Version}}\n")
	cmd.AddGroup(
		&cobra.Group{ID: groupVolumes, Title: "Volumes:"},
		&cobra.Group{ID: groupFiles, Title: "Files:"},
		&cobra.Group{ID: groupSandboxes, Title: "Sandboxes:"},
		&cobra.Group{ID: groupServers, Title: "Servers:"},
		&cobra.Group{ID: groupOther, Title: "Other commands:"},
	)
	addCommands(cmd, groupVolumes, newCreateCmd(a), newLsCmd(a), newInspectCmd(a), newRmCmd(a), newPruneCmd(a), newRenameCmd(a), newCloneCmd(a),
		newSetCmd(a), newDfCmd(a))
	addCommands(cmd, groupFiles, newCpCmd(a), newFsCmd(a), newDiskCmd(a))
	addCommands(cmd, groupSandboxes, newRunCmd(a), newPsCmd(a), newPauseCmd(a), newResumeCmd(a), newStopCmd(a), newLogsCmd(a),
		newAttachCmd(a), newImageCmd(a))
	addCommands(cmd, groupServers, newServeCmd(a), newLoginCmd(a), newLogoutCmd(a), newProfileCmd(a), newKeyCmd(a), newOrgCmd(a),
		newAuditCmd(a), newWatchCmd(a))
	addCommands(cmd, groupOther, newDoctorCmd(a), newBucketCmd(a), newCompletionCmd(a), newVersionCmd(a))
	cmd.AddCommand(newExitCodesCmd())
	cmd.SetFlagErrorFunc(suggestFlag)
	cmd.SetHelpFunc(a.helpHint(cmd.HelpFunc()))
	cmd.SetHelpCommand(newHelpCmd(a))
	cmd.SetHelpCommandGroupID(groupOther)
	setArgDefaults(cmd)
	return cmd
}

// setArgDefaults has the commands beneath parent that say nothing of arguments take none, and
// those that complete no arguments offer no files for them.
func setArgDefaults(parent *cobra.Command) {
	for _, c := range parent.Commands() {
		setArgDefaults(c)
		if c.Args == nil && c.Runnable() {
			c.Args = exactArgs(0, "")
		}
		if c.ValidArgsFunction == nil && c.ValidArgs == nil {
			c.ValidArgsFunction = cobra.NoFileCompletions
		}
	}
}

// addCommands adds commands to parent, in a group of its help.
func addCommands(parent *cobra.Command, group string, cmds ...*cobra.Command) {
	for _, c := range cmds {
		c.GroupID = group
		parent.AddCommand(c)
	}
}

// newGroupCmd makes a command of cmd that only has subcommands.
func newGroupCmd(cmd *cobra.Command, subcommands ...*cobra.Command) *cobra.Command {
	cmd.Args, cmd.RunE = cobra.ArbitraryArgs, runCommandGroup
	cmd.AddCommand(subcommands...)
	return cmd
}

// runCommandGroup shows the help of a command that only has subcommands, and refuses a name that
// is none of them.
func runCommandGroup(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	msg := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	hint := "'" + cmd.CommandPath() + " --help' lists the commands"
	if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
		hint = "did you mean " + strings.Join(s, " or ") + "?"
	}
	return &hinted{usageErrorf("%s", msg), hint}
}

// emptyMeans is the annotation of the flags for which an empty value says something.
const emptyMeans = "vole_empty_means"

// refuseEmptyFlags refuses flags that are given and empty. In a script whose variable is
// not set they would otherwise mean no limit, all volumes, or another kind of volume.
func refuseEmptyFlags(cmd *cobra.Command) (err error) {
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if _, may := f.Annotations[emptyMeans]; err == nil && !may && hasEmptyValue(f.Value) {
			err = &hinted{usageErrorf("--%s: the value is empty", f.Name), "leave the flag out for its default; in a script, is the variable set?"}
		}
	})
	return err
}

// refuseEmptyArgs refuses empty arguments for the same reason. Those of a command that run
// and attach execute are not theirs, and completion is asked about what is yet empty.
func refuseEmptyArgs(cmd *cobra.Command, args []string) error {
	switch cmd.Name() {
	case "run", "attach", cobra.ShellCompRequestCmd:
		return nil
	}
	if i := slices.Index(args, ""); i >= 0 {
		return &hinted{usageErrorf("%s: argument %d is empty; in a script, is the variable set?", cmd.Name(), i+1), "usage: " + cmd.UseLine()}
	}
	return nil
}

// hasEmptyValue reports whether a value, or one of several, is nothing or only blanks.
func hasEmptyValue(v pflag.Value) bool {
	values := []string{v.String()}
	if list, ok := v.(pflag.SliceValue); ok {
		if values = list.GetSlice(); len(values) == 0 {
			return true
		}
	}
	return slices.ContainsFunc(values, func(s string) bool { return strings.TrimSpace(s) == "" })
}

// applyTimeout bounds what a command does by --timeout, which must be positive. Commands that end
// when someone else does are not bounded; attach is until its program has started. A completion
// takes completionTime at most.
func (a *app) applyTimeout(cmd *cobra.Command) error {
	limit := a.timeout
	switch {
	case cmd.Name() == cobra.ShellCompRequestCmd:
		limit = completionTime
	case !cmd.Flags().Changed("timeout"), cmd.Name() == "serve": // whose --timeout is of requests
		return nil
	case limit <= 0:
		return &hinted{usageErrorf("--timeout %s: must be more than 0", limit), "without --timeout there is no limit"}
	case cmd.Name() == "run" || cmd.Name() == "logs":
		return nil
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), limit)
	// The process ends soon after the command does; this is for the timer's sake.
	context.AfterFunc(ctx, cancel)
	cmd.SetContext(ctx)
	return nil
}
