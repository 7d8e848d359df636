package blob

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/volehq/vole/driver"
)

// newCredentials returns the source of the client's keys.
func (o S3Options) newCredentials() (*credentials.Credentials, error) {
	if o.AccessKey != "" || o.SecretKey != "" {
		if o.AccessKey == "" || o.SecretKey == "" {
			return nil, driver.Errorf(driver.ErrInvalid, "give both the access key and the secret key, or neither")
		}
		return credentials.NewStaticV4(o.AccessKey, o.SecretKey, o.SessionToken), nil
	}
	c := &credentialChain{providers: []credentials.Provider{
		&credentials.EnvAWS{},
		&credentials.EnvMinio{},
		&credentials.FileAWSCredentials{Filename: o.CredentialsFile, Profile: o.Profile},
	}}
	if o.Instance {
		c.instance = &credentials.IAM{}
		c.providers = append(c.providers, c.instance)
	}
	return credentials.New(c), nil
}

// maxCredentialAge is how long keys are used that have no expiry. Then a file is read again,
// as its keys may have been changed; the client by itself would read it for each request.
const maxCredentialAge = time.Minute

// credentialChain asks one provider after another. The client's own chain sends unsigned
// requests if it finds no keys, so that a missing key looks like a denied permission, and a
// failure of the metadata service like a revoked key.
type credentialChain struct {
	providers []credentials.Provider
	instance  *credentials.IAM // the last of providers, or nil

	mu      sync.Mutex
	current credentials.Provider // provider of the last keys; guarded by mu
	until   time.Time            // when to ask again, if the keys have no expiry; guarded by mu
}

// RetrieveWithCredContext implements credentials.Provider.
func (c *credentialChain) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	for _, p := range c.providers {
		v, err := p.RetrieveWithCredContext(cc)
		if err == nil && v.AccessKeyID != "" && v.SecretAccessKey != "" {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.current, c.until = p, time.Time{}
			if v.Expiration.IsZero() {
				c.until = time.Now().Add(maxCredentialAge)
			}
			return v, nil
		}
		if p == credentials.Provider(c.instance) && c.instance != nil {
			return credentials.Value{}, errors.Join(errors.New("the metadata service gave no credentials"), err)
		}
	}
	return credentials.Value{}, driver.Errorf(driver.ErrPermission,
		"no credentials for the bucket: give an access key, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a credentials file, or the instance's")
}

// Retrieve implements credentials.Provider.
func (c *credentialChain) Retrieve() (credentials.Value, error) {
	return c.RetrieveWithCredContext(nil)
}

// IsExpired implements credentials.Provider.
func (c *credentialChain) IsExpired() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == nil {
		return true
	}
	if !c.until.IsZero() {
		return time.Now().After(c.until)
	}
	return c.current.IsExpired()
}

// newTransport returns the HTTP transport. It speaks HTTP/1.1 only: with one connection per
// request, a stalled request delays no other.
func (o S3Options) newTransport() (*http.Transport, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, err
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, driver.Errorf(driver.ErrInvalid, "%s contains no PEM certificate", o.CAFile)
		}
		conf.RootCAs = pool
	}
	dialer := &net.Dialer{Timeout: min(10*time.Second, o.HeaderTimeout), KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, &dialError{err}
			}
			return c, nil
		},
		TLSClientConfig:       conf,
		TLSHandshakeTimeout:   min(10*time.Second, o.HeaderTimeout),
		ExpectContinueTimeout: time.Second,
		MaxIdleConns:          o.MaxIdle,
		MaxIdleConnsPerHost:   o.MaxIdle,
		IdleConnTimeout:       90 * time.Second,
		WriteBufferSize:       64 << 10,
		ReadBufferSize:        64 << 10,
		// Read objects as they are stored, whatever their Content-Encoding says.
		DisableCompression: true,
	}, nil
}

// dialError is a failure to connect: nothing was sent.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }
