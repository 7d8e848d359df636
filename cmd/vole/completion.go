package main

import (
	_ "embed"
	"io"

	"github.com/spf13/cobra"
)

// bashCompletion is not cobra's script, which needs functions of the package bash-completion
// and evaluates the line to be completed.
//
//go:embed completion.bash
var bashCompletion string

func newCompletionCmd(a *app) *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion {bash|zsh|fish|powershell}",
		Short: "Print a completion script for a shell",
		Long: `Print a script that completes commands, flags, and the values of flags and arguments:
volumes and paths in them, labels, profiles, keys. That for bash needs bash 3.2 or later
and no package besides.`,
		Example: `  source <(vole completion bash)
  vole completion zsh > "${fpath[1]}/_vole"
  vole completion fish > ~/.config/fish/completions/vole.fish`,
		Args:      exactArgs(1, "a shell: bash, zsh, fish or powershell"),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				_, err := io.WriteString(a.payload, bashCompletion)
				return err
			case "zsh":
				return root.GenZshCompletion(a.payload)
			case "fish":
				return root.GenFishCompletion(a.payload, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(a.payload)
			}
			return usagef("completion: unknown shell %q; use bash, zsh, fish or powershell", args[0])
		},
	}
}
