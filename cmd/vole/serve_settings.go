package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/server"
)

// resolveSettings completes the flags from the environment and the configuration file: a flag that
// was given stays, else a variable that is set and not empty counts, else the file. An empty
// variable counts as none, because that is how container tools leave one out. Names in the file
// that no setting has are refused: they may be mistyped limits. s.from notes where each came from.
func (s *serveFlags) resolveSettings(cmd *cobra.Command, warn func(string, ...any)) error {
	if err := checkSystem("serve"); err != nil {
		return err
	}
	s.from = map[string]string{}
	file, err := s.readConfig(warn)
	if err != nil {
		return err
	}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if err != nil {
			return
		}
		if s.names != nil && f.Name != "home" && !slices.Contains(s.names, f.Name) {
			return // the command's own
		}
		own := cmd.LocalNonPersistentFlags().Lookup(f.Name) != nil
		env, set := os.LookupEnv(settingVariable(f.Name))
		values, there := file[f.Name]
		delete(file, f.Name)
		switch {
		case !own && f.Name != "home" || f.Name == "config" || f.Name == "help":
			if there {
				err = usageErrorf("%s: %q is no setting of a server", s.config, f.Name)
			}
		case f.Changed:
			s.from[f.Name] = "flag"
		case set && env != "":
			s.from[f.Name] = "env"
			list := []string{env}
			if f.Value.Type() == "stringArray" {
				list = strings.Fields(env)
			}
			err = setFromConfig(f, list, settingVariable(f.Name))
		case there:
			s.from[f.Name] = "config"
			err = setFromConfig(f, values, s.config+": "+f.Name)
		}
	})
	for name := range file {
		return &hinted{usageErrorf("%s: unknown setting %q", s.config, name), "settings have the names of the flags, without the dashes before them"}
	}
	return err
}

// settingVariable is the variable of the environment that stands for a flag.
func settingVariable(flag string) string {
	if flag == "home" { // as everywhere; local.DefaultHome knows it
		return "VOLE_HOME"
	}
	return "VOLE_SERVE_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// setFromConfig gives a flag its value. The error does not quote it: it may be a secret.
func setFromConfig(f *pflag.Flag, values []string, where string) error {
	for _, v := range values {
		if f.Value.Set(v) != nil {
			return usageErrorf("%s: this is no value of --%s, a %s", where, f.Name, f.Value.Type())
		}
	}
	return nil
}

// readConfig returns what the configuration file has, as text.
func (s *serveFlags) readConfig(warn func(string, ...any)) (map[string][]string, error) {
	if s.config = cmp.Or(s.config, os.Getenv("VOLE_SERVE_CONFIG")); s.config == "" {
		return nil, nil
	}
	b, err := os.ReadFile(s.config)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var raw map[string]any
	if err := dec.Decode(&raw); err != nil {
		return nil, usageErrorf("%s: this is no JSON object: %v", s.config, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, usageErrorf("%s: there is something after the JSON object", s.config)
	}
	out := map[string][]string{}
	for name, v := range raw {
		list, ok := v.([]any)
		if !ok {
			list = []any{v}
		}
		for _, v := range list {
			switch v.(type) {
			case string, bool, json.Number:
				text := fmt.Sprint(v)
				if strings.TrimSpace(text) == "" {
					return nil, &hinted{usageErrorf("%s: the value of %q is empty", s.config, name), "leave the setting out for its default"}
				}
				out[name] = append(out[name], text)
			default:
				return nil, usageErrorf("%s: %q must be text, a number, true, false, or a list of texts", s.config, name)
			}
		}
	}
	if i, err := os.Stat(s.config); err == nil && i.Mode()&0o004 != 0 &&
		(slices.ContainsFunc(out["db"], hasPassword) || slices.ContainsFunc(out["accounts"], hasPassword)) {
		warn("%s has a password and everyone on this host can read it", s.config)
	}
	return out, nil
}

// databaseSetting returns the address of one, which may be in a file, and refuses a password
// that everyone on this host can read.
func (s *serveFlags) databaseSetting(flag, value, file string) (string, error) {
	switch {
	case value != "" && s.from[flag] == "flag" && hasPassword(value):
		return "", &hinted{usageErrorf("--%s: a password must not be an argument, which everyone on this host can read", flag),
			fmt.Sprintf("put the URL into %s or into a file for --%s-file, or the password into PGPASSWORD or ~/.pgpass", settingVariable(flag), flag)}
	case file == "":
		return value, nil
	case value != "":
		return "", usageErrorf("give one of --%s and --%s-file", flag, flag)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	if value = strings.TrimSpace(string(b)); value == "" || strings.ContainsAny(value, "\n\r") {
		return "", usageErrorf("%s must have one line, the URL of a database", file)
	}
	return value, nil
}

// maxRate is the most requests per second that can be told from no limit.
const maxRate = 1e9

// longestTime bounds times of the settings, so that a moment that lies so far ahead can
// be computed: ten years.
const longestTime = 10 * 365 * 24 * time.Hour

// serverOptions checks the settings and makes the server's options of them.
func (s *serveFlags) serverOptions(a *app, log *slog.Logger) (o server.Options, err error) {
	o = s.opts
	o.Log, o.Version = log, buildVersion().Version
	switch {
	case s.opts.Timeout <= 0 || s.opts.Lease <= 0 || s.bucket.Grace <= 0:
		return o, usageErrorf("--timeout, --lease and --grace must be more than 0")
	case s.drain < 0 || s.opts.DrainDelay < 0 || s.bucket.Export < 0 || s.opts.Burst < 0:
		return o, usageErrorf("--drain, --drain-delay, --export and --burst must not be negative")
	case !(s.opts.Rate >= 0 && s.opts.Rate <= maxRate): // NaN is neither
		return o, usageErrorf("--rate %v: give a number from 0 to %d", s.opts.Rate, int64(maxRate))
	case max(s.opts.Timeout, s.opts.Lease, s.bucket.Grace, s.drain, s.opts.DrainDelay, s.bucket.Export) > longestTime:
		return o, usageErrorf("--timeout, --lease, --grace, --drain, --drain-delay and --export must be at most %v", longestTime)
	}
	if s.maxFile != "" {
		n, err := vole.ParseSize(s.maxFile)
		if err != nil || n <= 0 {
			return o, usageErrorf("--max-file: give a size as in 10G, more than 0")
		}
		o.MaxFile = int64(n)
	}
	memory, err := vole.ParseSize(s.memory)
	if err != nil || memory < server.MinMemory {
		return o, usageErrorf("--memory: give a size as in 2G, at least %v", vole.Size(server.MinMemory))
	}
	o.Memory = int64(memory)
	if o.Accounts, err = s.databaseSetting("accounts", s.accounts, s.accountsURL); err != nil {
		return o, err
	}
	if o.OIDC, err = s.oidcOptions(); err != nil {
		return o, err
	}
	switch s.backend {
	case "local":
		if s.dir != "" || s.db != "" || s.dbFile != "" || s.s3 != "" {
			return o, usageErrorf("--backend local serves --home; --dir, --db and --s3 are for --backend bucket")
		}
		if s.unreferenced != defaultUnreferenced {
			return o, usageErrorf("--unreferenced is for --backend bucket: a home keeps no bytes that no file refers to")
		}
		o.ForeignHome = a.foreignHome
		o.Home, err = a.homeDir()
	case "bucket":
		if s.opts.AllowDevices {
			return o, usageErrorf("--allow-devices is for --backend local: elsewhere a device node is but a row")
		}
		o.Bucket, err = s.bucketOptions()
	default:
		err = usageErrorf("--backend %s: use bucket or local", s.backend)
	}
	return o, err
}

// defaultUnreferenced is 16 GiB, as that of bucket.Options.
const defaultUnreferenced = "16G"

// bucketOptions returns the namespace that is served.
func (s *serveFlags) bucketOptions() (*bucket.Options, error) {
	db, err := s.databaseSetting("db", s.db, s.dbFile)
	if err != nil {
		return nil, err
	}
	s3 := s.s3
	if s.dir == "" {
		db, s3 = namespaceFromEnv(db, s3)
	}
	o := &s.bucket
	o.Dir, o.Database, o.Lease = s.dir, db, s.opts.Lease
	n, err := vole.ParseSize(s.unreferenced)
	if err != nil || n < 16*vole.MiB {
		return nil, usageErrorf("--unreferenced: give a size as in 16G, at least 16M")
	}
	o.Unreferenced = int64(n)
	switch {
	case s.dir == "" && db == "" && s3 == "":
		if o.Dir, err = defaultServerDir(); err != nil {
			return nil, err
		}
	case s.dir == "" && (db == "" || s3 == "" && !s.offline):
		return nil, &hinted{usageErrorf("which namespace? give --dir, or --db and --s3"), "without any of them there is a default directory"}
	}
	if o.Dir != "" {
		if o.Dir, err = filepath.Abs(o.Dir); err != nil {
			return nil, err
		}
		if s.offline { // nothing is made where there is none
			return o, nil
		}
		if err := os.MkdirAll(o.Dir, 0o700); err != nil {
			return nil, err
		}
	}
	if s3 != "" {
		o.S3, err = parseS3(s3)
	}
	return o, err
}

// defaultServerDir is beside the default home.
func defaultServerDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/vole-server", nil
	}
	if d := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "vole-server"), nil
	}
	h, err := os.UserHomeDir()
	if err != nil {
		return "", usageErrorf("no place for volumes: %v; give --dir", err)
	}
	return filepath.Join(h, ".local", "share", "vole-server"), nil
}

// oidcOptions is the provider whose tokens are accepted; nil: none.
func (s *serveFlags) oidcOptions() (*server.OIDC, error) {
	if s.oidc.Issuer == "" {
		for name := range s.from {
			if strings.HasPrefix(name, "oidc-") {
				return nil, usageErrorf("--%s is given without --oidc-issuer", name)
			}
		}
		return nil, nil
	}
	o := &s.oidc
	for _, m := range s.oidcScopes {
		// The last one: groups may have a = in their names, as in LDAP.
		i := strings.LastIndex(m, "=")
		if i <= 0 {
			return nil, usageErrorf("--oidc-scope %s: give GROUP=SCOPE[,SCOPE...]", m)
		}
		if o.Scopes == nil {
			o.Scopes = map[string][]string{}
		}
		o.Scopes[m[:i]] = append(o.Scopes[m[:i]], strings.Split(m[i+1:], ",")...)
	}
	return o, nil
}
