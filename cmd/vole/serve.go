package main

import (
	"time"

	"github.com/spf13/cobra"
	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/server"
)

// serveFlags are the settings of a server. Each is a flag, a variable of the
// environment and a key of the configuration file; see resolveSettings.
type serveFlags struct {
	// Of the command, not of the server.
	config  string
	from    map[string]string // where a setting comes from that is not a default
	offline bool              // no server is to run
	names   []string          // the settings, where the command has flags of its own; nil: all are

	// Settings that are used as they are.
	opts   server.Options
	bucket bucket.Options
	oidc   server.OIDC

	// What is served, and where it is kept.
	backend, dir          string
	db, dbFile            string
	accounts, accountsURL string // accountsURL: a file that has the URL
	s3, unreferenced      string

	// Who can reach the server, and how.
	listen, tlsCert, tlsKey string
	insecureHTTP            bool

	// Limits, logs and the identity provider.
	maxFile, memory     string
	drain               time.Duration
	logFormat, logLevel string
	firstKeyFile        string
	oidcScopes          []string
}

func newServeCmd(a *app) *cobra.Command {
	f := &serveFlags{}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve volumes over HTTP",
		Long: `Serve volumes over HTTP, to 'vole' on other hosts, package cloud and any HTTP client.

Without settings volumes are kept in a directory and served on 127.0.0.1:8650. The first
start prints a key that may do everything, once; 'vole login' takes it. Any number of
servers may share one PostgreSQL database and one S3 bucket.

Each flag is also a variable of the environment, VOLE_SERVE_LISTEN for --listen, and a
key of the JSON file that --config names. Flags go before the environment, that before
the file. Passwords and keys are never arguments: a database URL with a password comes
from VOLE_SERVE_DB, --db-file or the configuration, keys of S3 from AWS_ACCESS_KEY_ID
and AWS_SECRET_ACCESS_KEY or a file that --s3 names.

SIGTERM and SIGINT let requests that are under way finish, a second one does not. SIGHUP
reads the certificate again, which also happens when its files change.`,
		Example: `  vole serve
  vole serve --dir /srv/vole --listen :8650 --tls-cert tls.crt --tls-key tls.key
  vole serve --backend local --listen unix:/run/vole.sock
  vole serve --db-file /run/secrets/db --s3 'https://s3.example.com/vole?region=eu-1' --export 1h
  VOLE_SERVE_DB=postgres://vole:secret@db/vole vole serve --config /etc/vole/serve.json
  vole serve --oidc-issuer https://login.example.com --oidc-audience vole --oidc-scope devs=write`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runServer(cmd, f) },
	}
	f.register(cmd)
	cmd.AddCommand(newServeKeyCmd(a))
	return cmd
}

// register adds a flag for each setting to a command.
func (s *serveFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.config, "config", "", "JSON `file` of settings (default $VOLE_SERVE_CONFIG)")

	f.StringVar(&s.backend, "backend", "bucket", "what to serve: bucket, the volumes of organisations; or local, those of this host (--home)")
	f.BoolVar(&s.opts.AllowDevices, "allow-devices", false, "with --backend local, as root: clients may make device nodes, which are devices of this host to all who reach them by a path")
	f.StringVar(&s.dir, "dir", "", "`directory` of volumes, keys and the audit log (default /var/lib/vole-server for root, $XDG_DATA_HOME/vole-server or ~/.local/share/vole-server for others)")
	f.StringVar(&s.db, "db", "", "`URL` of a PostgreSQL database, or path of a SQLite file (default $VOLE_BUCKET_DB, else namespace.db in --dir)")
	f.StringVar(&s.dbFile, "db-file", "", "`file` that has the URL of the database")
	f.StringVar(&s.s3, "s3", "", "`URL` of an S3 bucket, https://HOST[:PORT]/BUCKET[/PREFIX][?region=R&credentials=FILE] (default $VOLE_BUCKET_S3)")
	f.StringVar(&s.accounts, "accounts", "", "`database` of keys and the audit log, as --db (default the same PostgreSQL database, else a file in --dir or --home)")
	f.StringVar(&s.accountsURL, "accounts-file", "", "`file` that has the URL of the database of keys")
	f.DurationVar(&s.bucket.Export, "export", 0, "write manifests of what has changed this often, from which a lost database is rebuilt (default never)")
	f.DurationVar(&s.bucket.Grace, "grace", 24*time.Hour, "keep blobs that nothing refers to for this `time`")
	f.StringVar(&s.unreferenced, "unreferenced", defaultUnreferenced, "with --backend bucket, most bytes that an organisation may have stored while no file refers to them; then blobs go before --grace is over, and writes fail when none may")

	f.StringVar(&s.listen, "listen", "127.0.0.1:8650", "`address` to serve on: HOST:PORT, or unix:PATH")
	f.StringVar(&s.tlsCert, "tls-cert", "", "PEM `file` of the certificate, and those that lead to its authority")
	f.StringVar(&s.tlsKey, "tls-key", "", "PEM `file` of its key")
	f.BoolVar(&s.insecureHTTP, "insecure-http", false, "serve without TLS to other hosts: keys and files can be read on the way")
	f.StringVar(&s.opts.Advertise, "advertise", "", "`URL` by which clients reach this very server, where several share one address")
	f.BoolVar(&s.opts.TrustProxy, "trust-proxy", false, "the client's address is the last of X-Forwarded-For")
	f.BoolVar(&s.opts.OpenMetrics, "open-metrics", false, "/metrics needs no key")

	f.Float64Var(&s.opts.Rate, "rate", 0, "requests per second of one key (default no limit)")
	f.IntVar(&s.opts.Burst, "burst", 0, "requests of one key at once (default two seconds' worth)")
	f.StringVar(&s.maxFile, "max-file", "", "most bytes of one file, e.g. 10G (default no limit)")
	f.StringVar(&s.memory, "memory", "512M", "`SIZE` of memory that the process takes at most, about; it bounds what clients can have it hold")
	f.DurationVar(&s.opts.Timeout, "timeout", time.Minute, "`time` of a request that moves no file content")
	f.DurationVar(&s.opts.Lease, "lease", 30*time.Second, "`time` that a silent client keeps what it holds")
	f.DurationVar(&s.drain, "drain", 30*time.Second, "`time` that requests have to finish when the server ends")
	f.DurationVar(&s.opts.DrainDelay, "drain-delay", 0, "go on this long before that, not ready, so that load balancers notice")

	f.StringVar(&s.oidc.Issuer, "oidc-issuer", "", "`URL` of an OpenID provider whose tokens are accepted beside keys")
	f.StringVar(&s.oidc.Audience, "oidc-audience", "", "`name` that tokens must be for")
	f.StringVar(&s.oidc.CAFile, "oidc-ca", "", "PEM `file` of authorities to trust for the provider")
	f.StringVar(&s.oidc.Org, "oidc-org", "", "`organisation` of all tokens")
	f.StringVar(&s.oidc.OrgClaim, "oidc-org-claim", "vole_org", "`claim` that has the organisation")
	f.StringVar(&s.oidc.ScopeClaim, "oidc-scope-claim", "vole_scopes", "`claim` that has the rights, or groups")
	f.StringArrayVar(&s.oidcScopes, "oidc-scope", nil, "`GROUP=SCOPE[,SCOPE...]`: what a value of that claim stands for (default read, write, admin and operator, for themselves)")
	f.StringVar(&s.oidc.NameClaim, "oidc-name-claim", "", "`claim` that the audit log shows (default email, preferred_username or sub)")

	f.StringVar(&s.logFormat, "log-format", "text", "text or json, on standard error")
	f.StringVar(&s.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&s.firstKeyFile, "first-key-file", "", "put the first key into this new `file` instead of printing it; also a new one where no operator key can be used any more")

	for flag, values := range map[string][]string{"backend": {"bucket", "local"}, "log-format": {"text", "json"}, "log-level": {"debug", "info", "warn", "error"}} {
		completeFlagWith(cmd, flag, values...)
	}
}
