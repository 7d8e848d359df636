package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
)

// volumeJSON is a volume as inspect prints it.
type volumeJSON struct {
	vole.Info
	Attachments []vole.AttachmentInfo `json:"attachments"`
}

func newInspectCmd(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "inspect NAME...",
		Short: "Show volumes in full, and who has them attached",
		Long: `Show all there is to know of volumes, given by name or id, and who has them attached.

` + formatHelp + `
Here it has the field Attachments as well.`,
		Example: `  vole inspect pip-cache
  vole inspect --format '{{.Name}}: {{len .Attachments}} attachments' pip-cache
  vole inspect --json pip-cache wheels | jq '.[].attachments[].holder'`,
		Args:              minArgs(1, "the name of at least one volume"),
		ValidArgsFunction: completeNames(a, 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			print, flush := a.printInspected, func() error { return nil }
			if format != "" {
				f, err := a.newFormatted(format, &volumeJSON{})
				if err != nil {
					return err
				}
				print, flush = f.printInspected, f.flushTable
			}
			s, err := a.openStore(cmd.Context())
			if err != nil {
				return err
			}
			return errors.Join(a.inspectVolumes(cmd.Context(), s, args, print, format == ""), flush())
		},
	}
	a.addBytesFlag(cmd)
	addFormatFlag(cmd, &format)
	return cmd
}

// inspectVolumes shows each volume by print, with a line between them if apart.
func (a *app) inspectVolumes(ctx context.Context, s *vole.Store, names []string, print func(volumeJSON) error, apart bool) error {
	var errs []error
	found := []volumeJSON{}
	for _, name := range names {
		v, err := inspectVolume(ctx, s, name)
		if err != nil {
			errs = append(errs, withHint(err, vole.ErrNotFound, "'vole ls' lists the volumes"))
			continue
		}
		if !a.json && apart && len(found) > 0 {
			errs = append(errs, a.printf("\n"))
		}
		found = append(found, v)
		if !a.json {
			errs = append(errs, print(v))
		}
	}
	if a.json {
		errs = append(errs, a.printJSON(found))
	}
	return errors.Join(errs...)
}

// inspectVolume describes a volume and who has it attached.
func inspectVolume(ctx context.Context, s *vole.Store, name string) (volumeJSON, error) {
	v, err := s.Get(ctx, name)
	if err != nil {
		return volumeJSON{}, err
	}
	list, err := v.Attachments(ctx)
	if list == nil {
		list = []vole.AttachmentInfo{} // [] in JSON, not null
	}
	return volumeJSON{v.Info(), list}, err
}

// printInspected prints all that is known of a volume, one item a line.
func (a *app) printInspected(v volumeJSON) error {
	if a.quiet {
		return a.printf("%s\n", v.Name)
	}
	t := a.newTable()
	row := func(k, v string) { t.addRow(k+":", v) }
	row("Name", v.Name)
	row("ID", v.ID)
	row("Kind", string(v.Kind))
	used := a.formatSize(v.Used)
	if v.UsedStale {
		used += " (may be wrong; 'vole df --measure' counts again)"
	}
	row("Used", used)
	if v.Kind == vole.KindDisk {
		row("Capacity", a.formatLimit(limitOrNone(v.Info)))
	} else {
		row("Quota", a.formatLimit(limitOrNone(v.Info)))
	}
	row("Created", a.formatTime(v.Created))
	row("Updated", a.formatTime(v.Updated))
	if !v.LastUsed.IsZero() {
		row("Last used", a.formatTime(v.LastUsed))
	}
	row("Backend", v.Backend)
	if v.Kind == vole.KindDisk {
		row("Format", v.DiskFormat+", "+v.DiskFilesystem)
	}
	switch {
	case v.ImagePath != "":
		row("Image", v.ImagePath)
	case v.HostPath != "":
		row("Host path", v.HostPath)
	}
	var labels, attachments []string
	for _, k := range slices.Sorted(maps.Keys(v.Labels)) {
		labels = append(labels, k+"="+v.Labels[k])
	}
	for _, at := range v.Attachments {
		attachments = append(attachments, a.formatAttachment(at))
	}
	t.addList("Labels:", labels)
	t.addList("Attachments:", attachments)
	return t.close()
}

// formatAttachment shows who has a volume attached, how, and since when.
func (a *app) formatAttachment(at vole.AttachmentInfo) string {
	mode := "rw"
	if at.ReadOnly {
		mode = "ro"
	}
	return fmt.Sprintf("%s, %s, %s, since %s", a.displayValue(at.Holder), mode, a.formatProcess(at), a.formatTime(at.Since))
}

// formatProcess names the process that an attachment is of. Servers keep the names of their
// own hosts to themselves.
func (a *app) formatProcess(at vole.AttachmentInfo) string {
	if at.Host == "" {
		return fmt.Sprintf("pid %d", at.PID)
	}
	return fmt.Sprintf("pid %d on %s", at.PID, a.displayValue(at.Host))
}
