package blob

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/s3utils"
	"github.com/volehq/vole/driver"
)

// S3Options says where a bucket is and how to reach it.
type S3Options struct {
	Endpoint  string // URL of the service, e.g. "https://s3.eu-central-1.amazonaws.com"
	Bucket    string // must exist
	Region    string // default: ask the service
	Prefix    string // of all keys in the bucket, e.g. "vole/"; default none
	PathStyle bool   // bucket in the path of URLs; default: in the host for Amazon and Google
	Insecure  bool   // plain http for an Endpoint that is no URL but host:port
	CAFile    string // PEM file of authorities to trust besides the system's

	// Credentials: the first of these that has any. With AccessKey set no other is
	// looked at. Those of a file or an instance are renewed before they expire.
	AccessKey       string
	SecretKey       string
	SessionToken    string // of temporary keys
	CredentialsFile string // after AWS_* and MINIO_* of the environment; default ~/.aws/credentials and config
	Profile         string // in that file; default $AWS_PROFILE or "default"
	Instance        bool   // ask the metadata service of the machine, container or pod, last

	Retries       int           // of a request after its first failure; default 5, below 0 none
	HeaderTimeout time.Duration // for an answer to begin; default 60 s
	StallTimeout  time.Duration // without a byte of a body sent or received; default 30 s
	MaxIdle       int           // connections kept open; default 128
	PartSize      int64         // bytes of a part of what Write stores, up to 10,000 of them; default and least 16 MiB
	Parallel      int           // parts under way at once, each in memory; default 4
}

// String leaves out the secrets, for logs.
func (o S3Options) String() string {
	return fmt.Sprintf("s3 endpoint=%s bucket=%s prefix=%s region=%s", o.redactedEndpoint(), o.Bucket, o.Prefix, o.Region)
}

// GoString leaves out the secrets too.
func (o S3Options) GoString() string { return o.String() }

// LogValue leaves out the secrets too.
func (o S3Options) LogValue() slog.Value { return slog.StringValue(o.String()) }

// redactedEndpoint is the endpoint without the credentials that a careless user may have put
// before its @.
func (o S3Options) redactedEndpoint() string {
	if i := strings.LastIndexByte(o.Endpoint, '@'); i >= 0 {
		return o.Endpoint[i+1:]
	}
	return o.Endpoint
}

// parseEndpoint returns host:port, and whether it is reached by TLS.
func (o S3Options) parseEndpoint() (host string, secure bool, err error) {
	text := o.Endpoint
	if !strings.Contains(text, "://") {
		text = "https://" + text
		if o.Insecure {
			text = "http://" + o.Endpoint
		}
	}
	u, err := url.Parse(text)
	// The error does not quote the endpoint: it may contain a password.
	if err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" ||
		u.Scheme != "http" && u.Scheme != "https" {
		return "", false, driver.Errorf(driver.ErrInvalid, "the endpoint must be https://host[:port] or http://host[:port], without credentials or path")
	}
	return u.Host, u.Scheme == "https", nil
}

// withDefaults returns the options with defaults for what is not set.
func (o S3Options) withDefaults() S3Options {
	o.Retries = cmp.Or(o.Retries, 5)
	if o.HeaderTimeout <= 0 {
		o.HeaderTimeout = time.Minute
	}
	if o.StallTimeout <= 0 {
		o.StallTimeout = 30 * time.Second
	}
	if o.MaxIdle <= 0 {
		o.MaxIdle = 128
	}
	o.PartSize = max(o.PartSize, 16<<20)
	if o.Parallel <= 0 {
		o.Parallel = 4
	}
	return o
}

// s3Store implements Store. The client makes each request once. This package decides which
// requests are repeated, and what a failure means.
type s3Store struct {
	opts      S3Options
	secure    bool
	transport *http.Transport
	client    minio.Core
	closed    atomic.Bool
}

// OpenS3 returns the store in a bucket, under a prefix. It makes one request to see that the
// bucket exists and may be listed. The service must support conditional puts (If-None-Match).
// A Write that crashes leaves parts that no listing shows but the service charges for: give
// the bucket a lifecycle rule that aborts incomplete uploads.
func OpenS3(ctx context.Context, opts S3Options) (Store, error) {
	s, err := newS3Store(opts)
	if err == nil {
		err = s.probeBucket(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("open bucket %s at %s: %w", opts.Bucket, opts.redactedEndpoint(), err)
	}
	return s, nil
}

// newS3Store returns the store without making a request.
func newS3Store(opts S3Options) (*s3Store, error) {
	opts = opts.withDefaults()
	host, secure, err := opts.parseEndpoint()
	if err != nil {
		return nil, err
	}
	opts.Prefix = strings.TrimSuffix(opts.Prefix, "/")
	if opts.Prefix != "" {
		if err := checkKey(opts.Prefix); err != nil {
			return nil, err
		}
		opts.Prefix += "/"
	}
	if err := s3utils.CheckValidBucketName(opts.Bucket); err != nil {
		return nil, driver.Errorf(driver.ErrInvalid, "%v", err)
	}
	creds, err := opts.newCredentials()
	if err != nil {
		return nil, err
	}
	transport, err := opts.newTransport()
	if err != nil {
		return nil, err
	}
	lookup := minio.BucketLookupAuto
	if opts.PathStyle {
		lookup = minio.BucketLookupPath
	}
	core, err := minio.NewCore(host, &minio.Options{
		Creds:        creds,
		Secure:       secure,
		Transport:    &stallTransport{transport, opts.HeaderTimeout, opts.StallTimeout},
		Region:       opts.Region,
		BucketLookup: lookup,
		MaxRetries:   1,
	})
	if err != nil {
		return nil, driver.Errorf(driver.ErrInvalid, "%v", err)
	}
	return &s3Store{opts: opts, secure: secure, transport: transport, client: *core}, nil
}

// probeBucket lists one object, which needs the bucket and the permission to list it.
func (s *s3Store) probeBucket(ctx context.Context) error {
	for _, err := range s.listPages(ctx, "", 1) {
		return err
	}
	return nil
}

// Ping implements Store. It makes one request, as probeBucket does.
func (s *s3Store) Ping(ctx context.Context) error {
	if s.closed.Load() {
		return driver.ErrClosed
	}
	_, more, err := s.listOnceAfter(ctx, "", "", 1, func(Info, error) bool { return false })
	if !more {
		return nil
	}
	if err == nil {
		err = ctx.Err()
	}
	return s.translateError(err)
}

// objectName is the name of key's object in the bucket.
func (s *s3Store) objectName(key string) string { return s.opts.Prefix + key }

// checkCall begins every method.
func (s *s3Store) checkCall(ctx context.Context, key string) error {
	if s.closed.Load() {
		return driver.ErrClosed
	}
	if err := checkCall(ctx, key); err != nil {
		return err
	}
	if len(s.objectName(key)) > maxKey {
		return driver.Errorf(driver.ErrInvalid, "the key is too long for the bucket's prefix; %d bytes are allowed", maxKey-len(s.opts.Prefix))
	}
	return nil
}

// Delete implements Store.
func (s *s3Store) Delete(ctx context.Context, key string) error {
	err := s.checkCall(ctx, key)
	if err == nil {
		err = s.retryTransient(ctx, func(ctx context.Context) error {
			return s.client.RemoveObject(ctx, s.opts.Bucket, s.objectName(key), minio.RemoveObjectOptions{})
		})
	}
	if serviceErrorCode(err) == "NoSuchKey" {
		err = nil
	}
	return wrapFailure("delete", key, s.translateError(err))
}

// Stat implements Store.
func (s *s3Store) Stat(ctx context.Context, key string) (Info, error) {
	err := s.checkCall(ctx, key)
	var found minio.ObjectInfo
	if err == nil {
		err = s.retryTransient(ctx, func(ctx context.Context) error {
			found, err = s.headObject(ctx, key)
			return err
		})
	}
	if err != nil {
		return Info{}, wrapFailure("stat", key, s.translateError(err))
	}
	return Info{Key: key, Size: found.Size, Modified: found.LastModified}, nil
}

// headObject describes an object, with its checksum, in one attempt.
func (s *s3Store) headObject(ctx context.Context, key string) (minio.ObjectInfo, error) {
	return s.client.StatObject(ctx, s.opts.Bucket, s.objectName(key), minio.StatObjectOptions{Checksum: true})
}

// PresignPut implements Store.
func (s *s3Store) PresignPut(ctx context.Context, key string, size int64, sum uint32, ttl time.Duration) (Request, error) {
	h := http.Header{}
	h.Set("If-None-Match", "*")
	h.Set("Content-Length", fmt.Sprint(size))
	h.Set(checksumHeader, encodeChecksum(sum))
	if size < 0 {
		return Request{}, wrapFailure("sign put of", key, driver.Errorf(driver.ErrInvalid, "size %d: must not be negative", size))
	}
	r, err := s.presignRequest(ctx, http.MethodPut, key, ttl, h)
	return r, wrapFailure("sign put of", key, err)
}

// PresignGet implements Store.
func (s *s3Store) PresignGet(ctx context.Context, key string, ttl time.Duration) (Request, error) {
	r, err := s.presignRequest(ctx, http.MethodGet, key, ttl, http.Header{})
	return r, wrapFailure("sign get of", key, err)
}

// presignRequest signs a request with all of its headers.
func (s *s3Store) presignRequest(ctx context.Context, method, key string, ttl time.Duration, h http.Header) (Request, error) {
	if err := s.checkCall(ctx, key); err != nil {
		return Request{}, err
	}
	if ttl < time.Second || ttl > 7*24*time.Hour { // S3 signs for no other time
		return Request{}, driver.Errorf(driver.ErrInvalid, "a signed request can be valid for 1 second to 7 days, not %v", ttl)
	}
	var signed *url.URL
	// Only the first call makes a request, to learn the region.
	err := s.retryTransient(ctx, func(ctx context.Context) (err error) {
		signed, err = s.client.PresignHeader(ctx, method, s.opts.Bucket, s.objectName(key), ttl, url.Values{}, h)
		return err
	})
	if err != nil {
		return Request{}, s.translateError(err)
	}
	return Request{Method: method, URL: signed.String(), Header: h}, nil
}

// Close implements Store.
func (s *s3Store) Close() error {
	s.closed.Store(true)
	s.transport.CloseIdleConnections()
	return nil
}

// checksumHeader is the header with an object's CRC-32C:
// https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html
const checksumHeader = "x-amz-checksum-crc32c"

// encodeChecksum writes a checksum as S3 does.
func encodeChecksum(sum uint32) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, sum))
}
