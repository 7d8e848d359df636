package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker to the release that is built.
var version string

// versionInfo says what this binary is.
type versionInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"` // commit
	Modified bool   `json:"modified"`           // built from a changed working tree
	Go       string `json:"go"`
	Platform string `json:"platform"` // GOOS/GOARCH
}

func newVersionCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Example: `  vole version
  vole version --json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := buildVersion()
			switch {
			case a.json:
				return a.printJSON(v)
			case a.quiet:
				return a.printf("%s\n", v.Version)
			}
			rev := v.Revision
			if len(rev) > 12 {
				rev = rev[:12]
			}
			if rev != "" {
				rev = " " + rev
			}
			if v.Modified {
				rev += " (modified)"
			}
			return a.printf("vole %s%s %s %s\n", v.Version, rev, v.Go, v.Platform)
		},
	}
}

func buildVersion() versionInfo {
	v := versionInfo{Version: "devel", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	if version != "" {
		v.Version = version
	} else if m := info.Main.Version; m != "" && m != "(devel)" {
		v.Version = m
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}
