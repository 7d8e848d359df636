package main

import "github.com/spf13/cobra"

func newCompletionCmd(a *app) *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion {bash|zsh|fish|powershell}",
		Short: "Print a completion script for a shell",
		Long:  `Print a script that completes commands, flags, volumes and paths in them.`,
		Example: `  source <(vole completion bash)
  vole completion zsh > "${fpath[1]}/_vole"
  vole completion fish > ~/.config/fish/completions/vole.fish`,
		Args:      exactArgs(1, "a shell: bash, zsh, fish or powershell"),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.payload, true)
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
