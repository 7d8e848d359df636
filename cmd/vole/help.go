package main

import "github.com/spf13/cobra"

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
    3  no such volume, file or sandbox
    4  already there
    5  in use: attached or locked by someone the message names
    6  no room: the quota or the disk is full
    7  not permitted, or read-only
    8  not supported here; the message says where it is
    9  corrupt: what is stored contradicts itself ('vole doctor')
   10  a wait timed out
  130  interrupted

Of several errors the first decides. 'vole attach' and 'vole run' pass on the exit
code of the program they ran; 128+N when signal N ended it, 126 when it could not be
executed and 127 when it was not found. 'vole run' ends with 125 when vole failed.`,
	}
}
