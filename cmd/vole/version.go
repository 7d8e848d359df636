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

// versionJSON is versionInfo, and which profile commands use.
type versionJSON struct {
	versionInfo
	Profile *profileJSON `json:"profile,omitempty"` // absent: it cannot be told
}

func newVersionCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version, and which profile is in effect",
		Example: `  vole version
  vole version --json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := buildVersion()
			used, err := a.profileInEffect()
			switch {
			case a.json && err != nil:
				a.warnf("no profile is in effect: %v", err)
				return a.printJSON(versionJSON{v, nil})
			case a.json:
				return a.printJSON(versionJSON{v, &used})
			case a.quiet:
				return a.printf("%s\n", v.Version)
			}
			rev := ""
			if v.Revision != "" {
				rev = " " + v.Revision[:min(12, len(v.Revision))]
			}
			if v.Modified {
				rev += " (modified)"
			}
			if err := a.printf("vole %s%s %s %s\n", v.Version, rev, v.Go, v.Platform); err != nil {
				return err
			}
			if err != nil {
				a.warnf("no profile is in effect: %v", err)
				return nil
			}
			return a.printf("profile: %s, by %s\n", a.chosen, used.Source)
		},
	}
}

// buildVersion says what this binary is: by the linker for a release, else by the build information
// of the module.
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
