package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// newHelpCmd differs from cobra's own in that it also shows the pages of the documentation,
// and that an unknown topic is an error.
func newHelpCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND | TOPIC]",
		Short: "Show help on a command or topic; 'vole help topics' lists the topics",
		Long: `Show help on a command, or a page of the documentation, which the program carries.
'vole help topics' lists the pages.`,
		Example: `  vole help cp
  vole help topics
  vole help cli-json | less`,
		Args: cobra.ArbitraryArgs,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) (list []cobra.Completion, _ cobra.ShellCompDirective) {
			if at, _, err := cmd.Root().Find(args); err == nil {
				for _, c := range at.Commands() {
					if strings.HasPrefix(c.Name(), prefix) && (c.IsAvailableCommand() || c.IsAdditionalHelpTopicCommand()) {
						list = append(list, cobra.CompletionWithDesc(c.Name(), c.Short))
					}
				}
			}
			if len(args) == 0 {
				list = append(list, completeTopics(prefix)...)
			}
			return list, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			topic, rest, err := cmd.Root().Find(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 && len(args) == 1 {
				return a.showTopic(cmd.Root(), args[0])
			}
			if len(rest) > 0 {
				return &hinted{usageErrorf("help: unknown topic %q", strings.Join(args, " ")), "'vole --help' lists the commands, 'vole help topics' the topics"}
			}
			topic.InitDefaultHelpFlag()
			return topic.Help()
		},
	}
}

// newExitCodesCmd is a topic of the help: cobra shows a command that cannot run as
// "additional help topic".
func newExitCodesCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit codes mean",
		Long: `Exit codes of vole:

    0  done
    1  failed in another way
    2  usage: the request makes no sense as it stands
    3  no such volume, file, sandbox, profile, key or home
    4  already there
    5  in use: attached or locked by someone the message names
    6  no room: the quota or the disk is full
    7  not permitted, or read-only
    8  not supported here; the message says where it is
    9  corrupt: what is stored contradicts itself ('vole doctor')
   10  a wait timed out
   11  the server does not answer, or cannot now
  130  interrupted

Of several errors the first decides. 'vole attach' and 'vole run' pass on the exit
code of the program they ran; 128+N when signal N ended it, 126 when it could not be
executed and 127 when it was not found. 'vole run' ends with 125 when vole failed.`,
	}
}
