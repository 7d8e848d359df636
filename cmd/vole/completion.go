package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// bashCompletion is not cobra's script, which needs functions of the package bash-completion
// and evaluates the line to be completed: a key for completion would run what stands in it.
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
				return writeWithoutEval(a.payload, root.GenZshCompletion, zshWithoutEval)
			case "fish":
				fish := func(w io.Writer) error { return root.GenFishCompletion(w, true) }
				return writeWithoutEval(a.payload, fish, fishWithoutEval)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(a.payload)
			}
			return usageErrorf("completion: unknown shell %q; use bash, zsh, fish or powershell", args[0])
		},
	}
}

// writeWithoutEval writes a script of cobra's with parts of it replaced: those that evaluate
// the line to be completed, by which a key for completion would run what is in it.
func writeWithoutEval(w io.Writer, generate func(io.Writer) error, replace []string) error {
	var script bytes.Buffer
	if err := generate(&script); err != nil {
		return err
	}
	text := script.String()
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(text, replace[i]) {
			return fmt.Errorf("completion: the script has no %q", replace[i])
		}
		text = strings.ReplaceAll(text, replace[i], replace[i+1])
	}
	_, err := io.WriteString(w, text)
	return err
}

// zshWithoutEval has what is replaced in the script for zsh, each before what it becomes.
// Words lose their quotes; a parameter or ~ that one begins with is expanded, and nothing
// else is.
var zshWithoutEval = []string{
	`words=("${=words[1,CURRENT]}")`, `words=("${(@)words[1,CURRENT]}")`,
	`requestComp="${requestComp} \"\""`, `:`,
	`eval ${requestComp}`, `__vole_request`,
	`flagPrefix="-P ${BASH_REMATCH}"`, `flagPrefix="-P ${(q)BASH_REMATCH}"`,
	"\n_vole()\n", `
__vole_request()
{
    local word
    local -a plain
    for word in "${(@)words}"; do
        if [[ "${word}" =~ '^("?)[$][{]?([A-Za-z_][A-Za-z0-9_]*)[}]?(.*)$' ]]; then
            plain+=("${(P)match[2]}${(Q)${:-${match[1]}${match[3]}}}")
        elif [[ "${word}" == '~/'* ]]; then
            plain+=("${HOME}${(Q)word[2,-1]}")
        else
            plain+=("${(Q)word}")
        fi
    done
    # A quote that is still open is none of the word.
    plain[-1]="${plain[-1]#[\"\']}"
    whence -- "${plain[1]}" >/dev/null || plain[1]=vole
    "${plain[1]}" __complete "${(@)plain[2,-1]}"
}

_vole()
`,
}

// fishWithoutEval is the same for fish.
var fishWithoutEval = []string{
	`set -l lastArg (string escape -- (commandline -ct))`, `set -l lastArg (commandline -ct)`,
	`set -l requestComp "VOLE_ACTIVE_HELP=0 $args[1] __complete $args[2..-1] $lastArg"`, `set -lx VOLE_ACTIVE_HELP 0
    # A variable or ~ that a word begins with is expanded, and nothing else is.
    set -l words
    for arg in $args
        set -l parts (string match -r -- '^\$(\w+)(.*)$' $arg)
        if set -q parts[2]; and set -q $parts[2]
            set -l name $parts[2]
            set arg "$$name$parts[3]"
        else if string match -q -- '~/*' $arg
            set arg $HOME(string sub -s 2 -- $arg)
        end
        set -a words $arg
    end`,
	`__vole_debug "Calling $requestComp"`, `__vole_debug "Calling $words __complete"`,
	`(eval $requestComp 2> /dev/null)`, `($words[1] __complete $words[2..-1] "$lastArg" 2> /dev/null)`,
}
