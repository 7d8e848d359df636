package main

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"text/template"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
)

// formatted prints each volume by a template of its user.
type formatted struct {
	a       *app
	t       *template.Template
	columns *table      // nil: each volume is a line as it comes
	raw     *volumeJSON // what is printed, its texts as they are
}

// formatHelp describes the templates for the help of commands that take them.
const formatHelp = `--format prints each volume by a template of Go's package text/template on the fields of
vole.Info, as '{{.Name}}\t{{.Used}}' or '{{.Label "team"}}'; '{{json .}}' is
JSON, as is 'json' alone, '{{bytes .Used}}' a bare number. 'table {{.Name}}\t{{.Used}}' has
columns below a line of titles.`

// addFormatFlag gives a command --format.
func addFormatFlag(cmd *cobra.Command, text *string) {
	cmd.Flags().StringVar(text, "format", "", "print each volume by this Go `template`, e.g. '{{.Name}} {{.Used}}'")
	noFlagFiles(cmd, "format")
}

// newFormatted parses a template for records like sample; \t and \n in it are a tab and the
// end of a line. It executes the template once on the empty sample: a mistyped field is an error of
// usage before any server is asked. A field that is only reached with data fails when it is.
func (a *app) newFormatted(text string, sample any) (*formatted, error) {
	if a.json || a.quiet {
		return nil, usageErrorf("--format excludes --json and --quiet: each says what is printed")
	}
	text = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(text)
	text, asTable := strings.CutPrefix(text, "table ")
	if text == "json" {
		text = "{{json .}}"
	}
	f := &formatted{a: a, raw: &volumeJSON{}}
	t, err := template.New("--format").Option("missingkey=zero").Funcs(template.FuncMap{
		"json":  f.printAsJSON,
		"join":  strings.Join,
		"lower": func(v any) string { return strings.ToLower(fmt.Sprint(v)) },
		"upper": func(v any) string { return strings.ToUpper(fmt.Sprint(v)) },
		"bytes": func(s vole.Size) int64 { return int64(s) },
	}).Parse(text)
	if err == nil {
		err = template.Must(t.Clone()).Execute(io.Discard, sample) // a mistyped field, before anything is asked for
	}
	if err != nil {
		return nil, &hinted{usageErrorf("%v", err), "the fields are " + strings.Join(templateFields(sample), ", ")}
	}
	f.t = t
	if asTable {
		titles := strings.Split(text, "\t")
		for i, column := range titles {
			titles[i] = columnTitle(column)
		}
		f.columns = a.newTable(titles...)
	}
	return f, nil
}

// templateFields lists the fields of a volume that templates can have.
func templateFields(sample any) (names []string) {
	for _, f := range reflect.VisibleFields(reflect.TypeOf(sample).Elem()) {
		if !f.Anonymous {
			names = append(names, "."+f.Name)
		}
	}
	return names
}

// printAsJSON is v as JSON, with the escapes that --json has. What a template gets is made for a line
// of text, which JSON need not be.
func (f *formatted) printAsJSON(v any) (string, error) {
	switch v.(type) {
	case *volumeJSON:
		v = f.raw
	case *listedVolume:
		v = &listedVolume{f.raw.Info}
	case vole.Info:
		v = f.raw.Info
	case vole.Labels:
		v = f.raw.Labels
	case []vole.AttachmentInfo:
		v = f.raw.Attachments
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "", err
	}
	return escapeText(strings.TrimSuffix(b.String(), "\n"), nil, escapeJSONRune), nil
}

// columnTitle names a column of a template for the first field in it: .LastUsed is
// "LAST USED".
func columnTitle(column string) string {
	for _, part := range strings.Split(column, ".")[1:] {
		field := part[:len(part)-len(strings.TrimLeftFunc(part, unicode.IsLetter))]
		if field == "" {
			continue
		}
		var title strings.Builder
		for i, c := range field {
			if i > 0 && unicode.IsUpper(c) && unicode.IsLower(rune(field[i-1])) {
				title.WriteByte(' ')
			}
			title.WriteRune(unicode.ToUpper(c))
		}
		return title.String()
	}
	return ""
}

// listedVolume is what templates of ls have: who has a volume attached is not listed.
type listedVolume struct{ vole.Info }

// Label is the value of a label, for templates.
func (v *listedVolume) Label(key string) string { return v.Labels[key] }

// Label is the value of a label, for templates.
func (v *volumeJSON) Label(key string) string { return v.Labels[key] }

// printInspected shows a volume with its attachments.
func (f *formatted) printInspected(v volumeJSON) error {
	shown := volumeJSON{f.withDisplayValues(v.Info), slices.Clone(v.Attachments)}
	for i := range shown.Attachments {
		at := &shown.Attachments[i]
		at.Holder, at.Host = f.a.displayValue(at.Holder), f.a.displayValue(at.Host)
	}
	f.raw = &v
	return f.executeTemplate(&shown)
}

// withDisplayValues is a volume with texts from outside as value shows them, so that one record stays
// one line.
func (f *formatted) withDisplayValues(info vole.Info) vole.Info {
	labels := make(vole.Labels, len(info.Labels))
	for key, text := range info.Labels {
		labels[key] = f.a.displayValue(text)
	}
	info.Labels = labels
	return info
}

// executeTemplate prints the line, or the row, that the template makes of a volume.
func (f *formatted) executeTemplate(volume any) error {
	var line strings.Builder
	if err := f.t.Execute(&line, volume); err != nil {
		return usageErrorf("%v", err)
	}
	if f.columns != nil {
		return f.columns.addRow(strings.Split(line.String(), "\t")...)
	}
	_, err := io.WriteString(f.a.stdout, line.String()+"\n")
	return err
}

// flushTable prints what a table has kept back to fit its columns.
func (f *formatted) flushTable() error {
	if f.columns == nil {
		return nil
	}
	return f.columns.close()
}

func (f *formatted) printRecord(info vole.Info) error {
	f.raw = &volumeJSON{Info: info}
	return f.executeTemplate(&listedVolume{f.withDisplayValues(info)})
}

func (f *formatted) close(next string) error {
	err := f.flushTable()
	f.a.noteMorePages("volumes", next)
	return err
}
