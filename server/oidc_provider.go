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
	providerTimeout = 10 * time.Second // that the provider has to answer
	providerPause   = 5 * time.Second  // after it did not, before it is asked again
	maxProviderBody = 1 << 20          // most bytes of an answer
)

// provider is where the keys of an issuer are found. Asking it is begun by the first
// token, and again when it failed.
type provider struct {
	issuer string
	config *oidc.Config
	client *http.Client
	log    *slog.Logger

	mu          sync.Mutex // guards what follows
	verifier    *oidc.IDTokenVerifier
	discovering chan struct{} // closed when who asks the provider has its answer
	lastErr     error         // of the last time
	retryAfter  time.Time     // when it may be asked again
}

func newProvider(issuer, audience string, roots *x509.CertPool, log *slog.Logger) *provider {
	tr := http.DefaultTransport.(*http.Transport).Clone()
	tr.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	// A token whose key is not known makes the library ask for the keys anew. Anyone can
	// send such tokens, so it does that twice a second at most.
	limit := rate.NewLimiter(2, 10)
	return &provider{
		issuer: issuer, log: log,
		config: &oidc.Config{ClientID: audience, SupportedSigningAlgs: signingAlgorithms},
		client: &http.Client{Transport: &rateLimitedTransport{tr, limit}, Timeout: providerTimeout},
	}
}

// errProvider is matched by the failures that are not the token's.
var errProvider = errors.New("the identity provider cannot be asked")

// rateLimitedTransport asks the provider not too often, and makes an error of an answer that is none.
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

// verifyToken checks a token. Errors match accounts.ErrUnauthenticated, or say with 503 that
// the provider cannot be asked.
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

func (p *provider) providerUnavailable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	p.log.Warn("tokens cannot be checked", "issuer", p.issuer, "error", err)
	return &core.Error{Code: api.CodeUnavailable, Message: "the identity provider does not answer; try again, or use an API key"}
}

// awaitVerifier returns the verifier, which the first who asks makes; others wait for it.
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

// discoverKeys asks the provider where its keys are. It is nobody's request: who waits for it
// may go away.
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

// reportingKeySet tells the error of looking for keys, which the library does not pass on.
type reportingKeySet struct{ *oidc.RemoteKeySet }

type keyLookupKey struct{}

type keyLookup struct{ err error }

func (k reportingKeySet) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	payload, err := k.RemoteKeySet.VerifySignature(ctx, token)
	if o, ok := ctx.Value(keyLookupKey{}).(*keyLookup); ok {
		o.err = err
	}
	return payload, err
}
