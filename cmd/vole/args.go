package main

import (
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// exactArgs wants n arguments, and says what they are when there are fewer.
func exactArgs(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < n:
			return missingArgsError(cmd, what)
		case len(args) > n:
			return usageErrorf("%s: unexpected argument %q; see '%s --help'", cmd.Name(), args[n], cmd.CommandPath())
		}
		return nil
	}
}

// minArgs wants at least n arguments.
func minArgs(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < n {
			return missingArgsError(cmd, what)
		}
		return nil
	}
}

// rangeArgs wants n to m arguments.
func rangeArgs(n, m int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > m {
			return exactArgs(m, what)(cmd, args)
		}
		return minArgs(n, what)(cmd, args)
	}
}

// argOr is an argument that may be left out; otherwise is what stands for it then.
func argOr(args []string, i int, otherwise string) string {
	if i < len(args) {
		return args[i]
	}
	return otherwise
}

// missingArgsError is the error of usage of a command that lacks arguments; what says which.
func missingArgsError(cmd *cobra.Command, what string) error {
	return &hinted{usageErrorf("%s: give %s", strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" "), what), "usage: " + cmd.UseLine()}
}

// splitVolumePath splits NAME:path. ok is false when arg is not of that form but a host
// path: docker's rule, by which "./x:y", "/x:y" and a name without ":" are the host's. So
// is, on Windows, "C:x".
func splitVolumePath(arg string) (name, path string, ok bool) {
	if strings.HasPrefix(arg, "/") || strings.HasPrefix(arg, ".") || filepath.VolumeName(arg) != "" {
		return "", filepath.ToSlash(arg), false
	}
	name, path, ok = strings.Cut(arg, ":")
	if !ok {
		return "", filepath.ToSlash(arg), false
	}
	return name, path, true
}

// parseVolumePath splits NAME[:path] where only a volume makes sense; without a path it is
// the volume's root.
func parseVolumePath(arg string) (name, path string, err error) {
	name, path, _ = strings.Cut(arg, ":")
	if name == "" {
		return "", "", usageErrorf("%q names no volume; write NAME:/path", arg)
	}
	if path == "" {
		path = "/"
	}
	return name, path, nil
}

// parseFilePath splits NAME:path, in which the path is required.
func parseFilePath(arg string) (name, path string, err error) {
	name, path, err = parseVolumePath(arg)
	if err == nil && !strings.Contains(arg, ":") {
		err = usageErrorf("%q has no path in the volume; write %s:/path", arg, arg)
	}
	return name, path, err
}
