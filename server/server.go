// Package server serves volumes over HTTP: `vole serve`. Its own API is described by OpenAPI
// (openapi.yaml) and is the one that drivers/cloud speaks; beside it a server speaks two public
// dialects, so that existing SDKs work against it.
//
// # Model
//
// A [Server] serves the volumes of a local home, as its only organisation, or those of a
// namespace of drivers/bucket with any number of organisations. Package accounts keeps the rights
// in tables of its own: an API key belongs to an organisation, has scopes, and may be restricted
// to some volumes. Nothing is served without a key except /healthz, /readyz and /openapi.json.
//
// Servers hold only open files and the sessions of clients, so any number of them may serve one
// namespace. A client whose server dies continues on another one.
package server

import (
	"cmp"
	"context"
	"crypto/tls"
	_ "embed"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/drivers/local"
	"github.com/volehq/vole/internal/budget"
	"github.com/volehq/vole/server/internal/accounts"
	"github.com/volehq/vole/server/internal/core"
	"github.com/volehq/vole/server/internal/e2b"
	"github.com/volehq/vole/server/internal/msb"
	"github.com/volehq/vole/server/internal/native"
)

//go:embed openapi.json
var openapi []byte

// MinMemory is the least that Options.Memory may be, in bytes.
const MinMemory = core.MinMemory

// Options configures what to serve and how. Home or Bucket must be set; every other field has a
// default.
type Options struct {
	Home string // a local home, to serve this host's volumes
	// ForeignHome allows a Home that belongs to another user; see vole.Options.
	ForeignHome bool
	// AllowDevices lets clients make device nodes in volumes of Home. If the server runs as root
	// on Linux, these are devices of this host to everything that reaches them by a path.
	AllowDevices bool
	Bucket       *bucket.Options // a namespace
	// Accounts is the database of keys and the audit log: a PostgreSQL URL or the path of a
	// SQLite file. Default: Bucket.Database if that is PostgreSQL, else a file in Home or
	// Bucket.Dir.
	Accounts string

	TLS         *tls.Config // default: none, which is for loopback and proxies
	OIDC        *OIDC       // bearer tokens of an identity provider; default: none
	Advertise   string      // URL by which clients reach this very server, where several share one address
	OpenMetrics bool        // /metrics needs no key
	TrustProxy  bool        // the client's address is the last of X-Forwarded-For

	Lease   time.Duration // how long a silent client keeps what it holds; default 30 s
	Timeout time.Duration // of a request that moves no file content; default 60 s
	MaxFile int64         // most bytes of one file's content; default: no limit
	Rate    float64       // requests per second of one key; default: no limit
	Burst   int           // requests of a key at once; default: two seconds' worth
	// Memory is about how many bytes of memory the process takes at most; it bounds what clients
	// can make it hold. Default: 512 MiB; at least MinMemory.
	Memory int64
	// DrainDelay is how long a server that is ending goes on serving, except for /readyz, so
	// that load balancers notice. Default: 0.
	DrainDelay time.Duration

	descriptorLimit int // for tests; 0: the limit of this process

	endDrainDelay chan struct{} // ends DrainDelay early when closed, in tests

	slack time.Duration // for tests: core.Options.Grace

	Log     *slog.Logger // default: none
	Version string       // of the program
}

// Server is an open server.
type Server struct {
	opts          Options
	organisations core.Organisations
	accounts      *accounts.Store
	core          *core.Core
	native        *native.API
	handler       http.Handler
	registry      *prometheus.Registry
	memory        *budget.Budget
}

// New opens what opts names. The organisation "default" is created if it is missing.
func New(ctx context.Context, opts Options) (*Server, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	opts.Log = core.RequestLog(opts.Log)
	opts.Lease = cmp.Or(opts.Lease, 30*time.Second)
	opts.Memory = cmp.Or(opts.Memory, core.DefaultMemory)
	if opts.Memory < MinMemory {
		return nil, driver.Errorf(driver.ErrInvalid, "Memory is %v: a server needs at least %v", driver.Size(opts.Memory), driver.Size(MinMemory))
	}
	verify, err := opts.OIDC.newTokenVerifier(opts.Log)
	if err != nil {
		return nil, err
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s := &Server{opts: opts, registry: reg, memory: core.NewBudget(opts.Memory)}
	if err := s.openStores(ctx); err != nil {
		return nil, errors.Join(err, s.closeStores())
	}
	s.core = core.New(core.Options{Organisations: s.organisations, Accounts: s.accounts, OIDC: verify, Log: opts.Log, Metrics: reg, Version: opts.Version,
		Timeout: opts.Timeout, MaxFile: opts.MaxFile, Rate: opts.Rate, Burst: opts.Burst, TrustProxy: opts.TrustProxy, Grace: opts.slack, Budget: s.memory, Memory: opts.Memory,
		Descriptors: core.NewDescriptors(opts.descriptorLimit), Redacted: opts.privateTexts()})
	s.native = native.New(s.core, native.Options{OpenAPI: openapi, Lease: opts.Lease, Advertise: opts.Advertise, Metrics: reg, OpenMetrics: opts.OpenMetrics})
	s.handler = s.core.Mux(s.apiDialects()...)
	return s, nil
}

// openStores opens the organisations and the accounts database.
func (s *Server) openStores(ctx context.Context) error {
	o := &s.opts
	switch {
	case (o.Home == "") == (o.Bucket == nil):
		return driver.Errorf(driver.ErrInvalid, "set Home or Bucket")
	case o.Home != "":
		b, err := local.Open(ctx, o.Home, local.Options{ForeignHome: o.ForeignHome, NoDevices: !o.AllowDevices})
		if err != nil {
			return err
		}
		s.organisations = homeOrganisation{b}
	default:
		bo := *o.Bucket
		bo.Log, bo.Metrics, bo.Memory = o.Log, s.registry, s.memory
		ns, err := bucket.Open(ctx, bo)
		if err != nil {
			return err
		}
		s.organisations = bucketOrganisations{ns}
		if err := ns.CreateOrg(ctx, DefaultOrg); err != nil && !errors.Is(err, driver.ErrExists) {
			return err
		}
	}
	var err error
	s.accounts, err = accounts.Open(ctx, o.accountsDatabase(), accounts.Options{})
	return err
}

// accountsDatabase returns Options.Accounts or its default.
func (o *Options) accountsDatabase() string {
	switch {
	case o.Accounts != "":
		return o.Accounts
	case o.Home != "":
		return filepath.Join(o.Home, "server", "accounts.db")
	case strings.HasPrefix(o.Bucket.Database, "postgres"):
		return o.Bucket.Database
	case o.Bucket.Dir != "":
		return filepath.Join(o.Bucket.Dir, "server", "accounts.db")
	}
	return o.Bucket.Database + ".accounts"
}

// privateTexts returns the paths and hosts that no message to a client may contain.
func (o *Options) privateTexts() []string {
	var list []string
	path := func(p string) {
		if p == "" {
			return
		}
		if u, err := url.Parse(p); err == nil && u.Host != "" {
			list = append(list, u.Host, p)
			return
		}
		if abs, err := filepath.Abs(p); err == nil && len(abs) > 1 {
			list = append(list, abs)
		}
	}
	path(o.Home)
	path(o.Accounts)
	if b := o.Bucket; b != nil {
		path(b.Dir)
		path(b.Blobs)
		path(b.Database)
		if b.S3 != nil {
			path(b.S3.Endpoint)
		}
	}
	return list
}

// apiDialects returns the APIs that the server speaks.
func (s *Server) apiDialects() []*core.Dialect {
	return []*core.Dialect{s.native.Dialect(), e2b.Dialect(), msb.Dialect(s.core)}
}

// Handler returns the handler of all requests, for servers other than Serve's.
func (s *Server) Handler() http.Handler { return s.handler }

// HasKey reports whether a key was ever made, in any organisation.
func (s *Server) HasKey(ctx context.Context) (bool, error) { return s.accounts.HasAnyKey(ctx) }

// HasOperator reports whether anyone can make organisations and their keys: by an operator key
// that can be used now, or by a token of the identity provider.
func (s *Server) HasOperator(ctx context.Context) (bool, error) {
	if v := s.core.Options().OIDC; v != nil && v.Gives(s.opts.OIDC.Org).Has(accounts.Operator) {
		return true, nil
	}
	return s.accounts.HasOperatorKey(ctx)
}

// FirstKey makes a key with all rights for the organisation "default" and returns its secret,
// unless an operator key can be used; then it returns "".
func (s *Server) FirstKey(ctx context.Context) (string, error) {
	if have, err := s.accounts.HasOperatorKey(ctx); err != nil || have {
		return "", err
	}
	_, secret, err := s.accounts.CreateKey(ctx, accounts.NewKey{Org: DefaultOrg, Name: "first", Scopes: accounts.Admin | accounts.Operator})
	return secret, err
}

// KeyEnded reports whether a secret belongs to a revoked or expired key.
func (s *Server) KeyEnded(ctx context.Context, secret string) (bool, error) {
	return s.accounts.IsKeyEnded(ctx, secret)
}

// Close closes what New opened. All requests must have ended.
func (s *Server) Close() error {
	return errors.Join(s.native.Close(), s.core.Close(), s.closeStores())
}

// closeStores closes what openStores opened.
func (s *Server) closeStores() error {
	var errs []error
	if s.accounts != nil {
		errs = append(errs, s.accounts.Close())
	}
	if s.organisations != nil {
		errs = append(errs, s.organisations.Close())
	}
	return errors.Join(errs...)
}
