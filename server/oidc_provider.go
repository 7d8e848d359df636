package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/core"
	"golang.org/x/time/rate"
)

const (
	providerTimeout = 10 * time.Second // of one request to the provider
	providerPause   = 5 * time.Second  // after it did not, before it is asked again
	maxProviderBody = 1 << 20          // most bytes of an answer
)

// provider finds the signing keys of an issuer. The first token starts the discovery; after a
// failure a later one starts it again.
type provider struct {
	issuer string
	config *oidc.Config
	client *http.Client
	log    *slog.Logger

	mu          sync.Mutex // guards what follows
	verifier    *oidc.IDTokenVerifier
	discovering chan struct{} // closed when the running discovery ends; nil: none runs
	lastErr     error         // of the last discovery
	retryAfter  time.Time     // before which no discovery starts
}

// newProvider returns a provider; nothing is asked yet.
func newProvider(issuer, audience string, roots *x509.CertPool, log *slog.Logger) *provider {
	tr := http.DefaultTransport.(*http.Transport).Clone()
	tr.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	// A token with an unknown key makes the library fetch the keys again. Anyone can send such
	// tokens, so that happens at most twice a second.
	limit := rate.NewLimiter(2, 10)
	return &provider{
		issuer: issuer, log: log,
		config: &oidc.Config{ClientID: audience, SupportedSigningAlgs: signingAlgorithms},
		client: &http.Client{Transport: &rateLimitedTransport{tr, limit}, Timeout: providerTimeout},
	}
}

// errProvider is matched by failures that are not the token's.
var errProvider = errors.New("the identity provider cannot be asked")

// rateLimitedTransport limits how often the provider is asked and how much it may answer, and
// turns HTTP errors into errors that match errProvider.
type rateLimitedTransport struct {
	http.RoundTripper
	limit *rate.Limiter
}

func (c *rateLimitedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if !c.limit.Allow() {
		return nil, fmt.Errorf("%w so often", errProvider)
	}
	resp, err := c.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errProvider, err)
	}
	if resp.StatusCode >= 400 {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%w: it answers with %s", errProvider, resp.Status)
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxProviderBody), resp.Body}
	return resp, nil
}

// verifyToken verifies the signature and validity of a token. Errors match
// accounts.ErrUnauthenticated, or say with 503 that the provider does not answer.
func (p *provider) verifyToken(ctx context.Context, token string) (*oidc.IDToken, error) {
	v, err := p.awaitVerifier(ctx)
	if err != nil {
		return nil, p.providerUnavailable(ctx, err)
	}
	var asked keyLookup
	id, err := v.Verify(context.WithValue(ctx, keyLookupKey{}, &asked), token)
	if err == nil {
		return id, nil
	}
	if errors.Is(asked.err, errProvider) || ctx.Err() != nil {
		return nil, p.providerUnavailable(ctx, asked.err)
	}
	if late := (*oidc.TokenExpiredError)(nil); errors.As(err, &late) {
		return nil, tokenRefused("it expired at %s", late.Expiry.UTC().Format(time.RFC3339))
	}
	return nil, tokenRefused("%.300s", err)
}

// providerUnavailable logs why the provider cannot be asked and returns the error for the
// client.
func (p *provider) providerUnavailable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	p.log.Warn("tokens cannot be checked", "issuer", p.issuer, "error", err)
	return &core.Error{Code: api.CodeUnavailable, Message: "the identity provider does not answer; try again, or use an API key"}
}

// awaitVerifier returns the verifier, after a discovery that one caller starts and others wait
// for. For providerPause after a failure it returns that failure.
func (p *provider) awaitVerifier(ctx context.Context) (*oidc.IDTokenVerifier, error) {
	p.mu.Lock()
	if p.verifier != nil || p.discovering == nil && time.Now().Before(p.retryAfter) {
		defer p.mu.Unlock()
		return p.verifier, p.lastErr
	}
	if p.discovering == nil {
		p.discovering = make(chan struct{})
		go p.discoverKeys()
	}
	asking := p.discovering
	p.mu.Unlock()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-asking:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.verifier, p.lastErr
}

// discoverKeys fetches the discovery document. It belongs to no request: those that wait for it
// may be canceled.
func (p *provider) discoverKeys() {
	ctx, cancel := context.WithTimeout(oidc.ClientContext(context.Background(), p.client), providerTimeout)
	defer cancel()
	found, err := oidc.NewProvider(ctx, p.issuer)
	var where struct {
		Keys string `json:"jwks_uri"`
	}
	if err == nil {
		err = found.Claims(&where)
	}
	if err == nil && where.Keys == "" {
		err = errors.New("its discovery document has no jwks_uri")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lastErr = err; err != nil {
		p.retryAfter = time.Now().Add(providerPause)
	} else {
		p.verifier = oidc.NewVerifier(p.issuer, reportingKeySet{oidc.NewRemoteKeySet(ctx, where.Keys)}, p.config)
		p.log.Info("tokens are accepted", "issuer", p.issuer)
	}
	close(p.discovering)
	p.discovering = nil
}

// reportingKeySet reports the error of fetching keys through the context; the library only
// reports that the signature is not verified.
type reportingKeySet struct{ *oidc.RemoteKeySet }

type keyLookupKey struct{}

// keyLookup receives the error of a lookup of keys.
type keyLookup struct{ err error }

func (k reportingKeySet) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	payload, err := k.RemoteKeySet.VerifySignature(ctx, token)
	if o, ok := ctx.Value(keyLookupKey{}).(*keyLookup); ok {
		o.err = err
	}
	return payload, err
}
