package main

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/internal/sqldb"
)

func newBucketCmd(a *app) *cobra.Command {
	return newGroupCmd(&cobra.Command{
		Use:   "bucket",
		Short: "Look after a namespace: volumes in a database and a blob store",
		Long: `Look after a namespace, which keeps the volumes of organisations in an SQL database
(PostgreSQL, or a SQLite file) and a blob store (an S3 bucket, or a directory). It is
named by --dir, or by --db and --s3, which VOLE_BUCKET_DB and VOLE_BUCKET_S3 stand for.

Passwords and keys are never arguments. Those of PostgreSQL come from VOLE_BUCKET_DB,
PGPASSWORD or ~/.pgpass; those of S3 from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,
or ~/.aws. 'vole help namespaces' has more.`,
		Example: `  vole bucket export --dir /srv/vole
  vole bucket check --db postgres://vole@db/vole --s3 'https://s3.example.com/vole?region=eu-1'
  vole bucket rebuild --dir /srv/vole`,
	}, newBucketExportCmd(a), newBucketRebuildCmd(a), newBucketCheckCmd(a), newBucketSweepCmd(a))
}

// bucketFlags name a namespace.
type bucketFlags struct {
	db, dir, s3 string
	opts        bucket.Options // what a command adds to them
}

// register adds the flags to a command.
func (b *bucketFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&b.db, "db", "", "`URL` of a PostgreSQL database, without a password, or path of a SQLite file (default $VOLE_BUCKET_DB, else namespace.db in --dir)")
	f.StringVar(&b.dir, "dir", "", "`directory` of a namespace that needs no servers")
	f.StringVar(&b.s3, "s3", "", "`URL` of an S3 bucket, https://HOST[:PORT]/BUCKET[/PREFIX][?region=R] (default $VOLE_BUCKET_S3)")
}

// namespaceOptions returns what the flags and the environment say of a namespace that exists, but
// for its database if rebuild is to make that.
func (b *bucketFlags) namespaceOptions(rebuild bool) (bucket.Options, error) {
	o := b.opts
	o.Dir, o.Database, o.Maintain = b.dir, b.db, -1
	if err := checkSystem("bucket"); err != nil {
		return o, err
	}
	if hasPassword(b.db) {
		return o, &hinted{usageErrorf("--db: a password must not be an argument, which everyone on this host can read"),
			"put the URL into VOLE_BUCKET_DB, or the password into PGPASSWORD or ~/.pgpass"}
	}
	s3 := b.s3
	if b.dir == "" {
		o.Database, s3 = namespaceFromEnv(o.Database, s3)
	}
	switch {
	case o.Dir == "" && (o.Database == "" || s3 == ""):
		return o, &hinted{usageErrorf("which namespace? give --dir, or --db and --s3"), "VOLE_BUCKET_DB and VOLE_BUCKET_S3 stand for --db and --s3"}
	case o.Dir != "" && o.Database == "":
		o.Database = filepath.Join(o.Dir, "namespace.db")
	}
	if s3 != "" {
		var err error
		if o.S3, err = parseS3(s3); err != nil {
			return o, err
		}
	}
	return o, checkNamespaceExists(o, rebuild)
}

// namespaceFromEnv completes the database and the bucket of a namespace from the environment. It
// is not for one that is named by its directory, which would be mixed with another.
func namespaceFromEnv(db, s3 string) (string, string) {
	return cmp.Or(db, os.Getenv("VOLE_BUCKET_DB")), cmp.Or(s3, os.Getenv("VOLE_BUCKET_S3"))
}

// hasPassword reports whether the address of a database has a password in it.
func hasPassword(db string) bool {
	if strings.Contains(strings.ToLower(db), "password=") { // also of sslpassword, and libpq's "host=... password=..."
		return true
	}
	if !sqldb.IsURL(db) {
		return false
	}
	u, err := url.Parse(db)
	if err != nil {
		return strings.Contains(db, "@")
	}
	_, has := u.User.Password()
	return has || u.Query().Has("password") || u.Query().Has("sslpassword")
}

// parseS3 takes the URL of a bucket apart. Errors do not quote it: it may hold a key.
func parseS3(text string) (*bucket.S3, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.Fragment != "" {
		return nil, usageErrorf("--s3: give https://HOST[:PORT]/BUCKET[/PREFIX][?region=R]")
	}
	if u.User != nil {
		return nil, &hinted{usageErrorf("--s3: keys must not be in the URL"), "put them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials"}
	}
	name, prefix, _ := strings.Cut(strings.Trim(u.Path, "/"), "/")
	if name == "" {
		return nil, usageErrorf("--s3: the URL has no bucket; give https://HOST[:PORT]/BUCKET")
	}
	if prefix != "" {
		prefix += "/"
	}
	s := &bucket.S3{Endpoint: u.Scheme + "://" + u.Host, Bucket: name, Prefix: prefix}
	texts := map[string]*string{"region": &s.Region, "ca": &s.CAFile, "profile": &s.Profile, "credentials": &s.CredentialsFile}
	switches := map[string]*bool{"path-style": &s.PathStyle, "instance": &s.Instance}
	for k, v := range u.Query() {
		switch {
		case texts[k] != nil:
			*texts[k] = v[0]
		case switches[k] != nil:
			*switches[k] = v[0] != "false"
		default:
			return nil, usageErrorf("--s3: unknown parameter %q; use region, path-style, ca, profile, credentials or instance", k)
		}
	}
	return s, nil
}

// checkNamespaceExists returns an error that matches vole.ErrNoSuch where a namespace of this
// host has no database (unless rebuild makes it) or no blobs: opening would make them.
func checkNamespaceExists(o bucket.Options, rebuild bool) error {
	type part struct{ path, missing string }
	var parts []part
	if !sqldb.IsURL(o.Database) && !rebuild {
		parts = append(parts, part{o.Database, "there is no database; 'vole bucket rebuild' makes a lost one again"})
	}
	if o.S3 == nil {
		parts = append(parts, part{filepath.Join(o.Dir, "blobs"), "there is no blob store"})
	}
	for _, p := range parts {
		_, err := os.Stat(p.path)
		if errors.Is(err, fs.ErrNotExist) {
			err = driver.Errorf(vole.ErrNoSuch, "%s", p.missing)
		}
		if err != nil {
			return &vole.Error{Op: "open", Path: p.path, Err: err}
		}
	}
	return nil
}

// withNamespace runs fn on a namespace that exists, and closes it.
func (a *app) withNamespace(ctx context.Context, op string, flags *bucketFlags, fn func(ns *bucket.Namespace) error) error {
	o, err := flags.namespaceOptions(false)
	if err != nil {
		return err
	}
	ns, err := bucket.Open(ctx, o)
	if err != nil {
		return wrapBucketError(op, err)
	}
	return errors.Join(wrapBucketError(op, fn(ns)), wrapBucketError(op, ns.Close()))
}

// wrapBucketError gives an error its operation, once: each of those that errors.Join put together,
// since they are reported one by one.
func wrapBucketError(op string, err error) error {
	if err == nil || errors.As(err, new(*vole.Error)) || errors.As(err, new(*exitError)) {
		return err
	}
	var list []error
	for _, e := range flattenErrors(err) {
		list = append(list, &vole.Error{Op: "bucket " + op, Err: e})
	}
	return errors.Join(list...)
}
