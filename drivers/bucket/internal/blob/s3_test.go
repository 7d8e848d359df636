package blob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/volehq/vole/driver"
)

// send makes a signed request as a host without credentials would.
func send(t *testing.T, r Request, body []byte, change func(*http.Request)) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), r.Method, r.URL, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = r.Header.Clone()
	if change != nil {
		change(req)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, got
}

func TestPresign(t *testing.T) {
	s := openTestS3(t, nil)
	ctx := t.Context()
	data := random(100_000)
	put, err := s.PresignPut(ctx, "o/a b", int64(len(data)), sumOf(data), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	other := append(random(len(data)-1), data[len(data)-1]+1)
	elsewhere := func(r *http.Request) { r.URL.Path = strings.TrimSuffix(r.URL.Path, "b") + "c" }
	for name, code := range map[string]int{
		"shorter":       first(send(t, put, data[1:], nil)),
		"longer":        first(send(t, put, append(bytes.Clone(data), 0), nil)),
		"other bytes":   first(send(t, put, other, nil)),
		"other sum":     first(send(t, put, other, func(r *http.Request) { r.Header.Set(checksumHeader, encodeChecksum(sumOf(other))) })),
		"no sum":        first(send(t, put, other, func(r *http.Request) { r.Header.Del(checksumHeader) })),
		"unconditional": first(send(t, put, data, func(r *http.Request) { r.Header.Del("If-None-Match") })),
		"other key":     first(send(t, put, data, elsewhere)),
	} {
		if code < 400 || code > 499 {
			t.Errorf("%s: status %d", name, code)
		}
	}
	if keys := keysOf(t, s, ""); len(keys) != 0 {
		t.Fatalf("stored: %q", keys)
	}
	if code, body := send(t, put, data, nil); code != 200 {
		t.Fatalf("put: status %d: %s", code, body)
	}
	if code, _ := send(t, put, data, nil); code != http.StatusPreconditionFailed {
		t.Errorf("put again: status %d", code)
	}
	wantBytes(t, s, "o/a b", data)

	get, err := s.PresignGet(ctx, "o/a b", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	code, got := send(t, get, nil, func(r *http.Request) { r.Header.Set("Range", "bytes=10-19") })
	if code != http.StatusPartialContent || !bytes.Equal(got, data[10:20]) {
		t.Errorf("get of a range: status %d, %d bytes", code, len(got))
	}
	time.Sleep(2100 * time.Millisecond)
	if code, _ := send(t, get, nil, nil); code != http.StatusForbidden {
		t.Errorf("get after its time: status %d", code)
	}
	for _, ttl := range []time.Duration{0, time.Millisecond, 8 * 24 * time.Hour} {
		_, err := s.PresignGet(ctx, "o/a", ttl)
		wantErr(t, err, driver.ErrInvalid)
	}
	_, err = s.PresignPut(ctx, "o/a", -1, 0, time.Minute)
	wantErr(t, err, driver.ErrInvalid)
	_, err = openTestDir(t, t.TempDir()).PresignGet(ctx, "o/a", time.Minute)
	wantErr(t, err, driver.ErrUnsupported)
}

func first(code int, _ []byte) int { return code }

func TestPrefixesAreApart(t *testing.T) {
	a := openTestS3(t, nil)
	opts := a.opts
	opts.Prefix = "some/where/else/"
	b, err := OpenS3(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	opts.Prefix = ""
	top, err := OpenS3(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	mustPut(t, b, "o/1", []byte("b"))
	if keys := keysOf(t, top, ""); len(keys) != 1 || keys[0] != "some/where/else/o/1" {
		t.Errorf("without a prefix: %q", keys)
	}
	if _, err := a.Stat(t.Context(), "o/1"); !errors.Is(err, driver.ErrNotExist) {
		t.Error(err)
	}
	wantErr(t, a.Put(t.Context(), strings.Repeat("k/", 510)+"k", nil, 0), driver.ErrInvalid)
}

// TestOpenS3Refuses tries what a user may get wrong.
func TestOpenS3Refuses(t *testing.T) {
	c := s3Config(t)
	good := S3Options{Endpoint: c.Endpoint, Bucket: c.Bucket, AccessKey: c.AccessKey, SecretKey: c.SecretKey, Retries: -1}
	garbage := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(garbage, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	const secret = "hunter2hunter2"
	for _, test := range []struct {
		name   string
		change func(o *S3Options)
		kind   error
		says   string
	}{
		{"no bucket", func(o *S3Options) { o.Bucket = "there-is-none" }, driver.ErrInvalid, "bucket there-is-none does not exist"},
		{"bad bucket", func(o *S3Options) { o.Bucket = "NO" }, driver.ErrInvalid, "ucket name"},
		{"wrong secret", func(o *S3Options) { o.SecretKey = secret }, driver.ErrPermission, "SignatureDoesNotMatch"},
		{"wrong key", func(o *S3Options) { o.AccessKey = "nobody" }, driver.ErrPermission, "access key"},
		{"half a key", func(o *S3Options) { o.AccessKey, o.SecretKey = "", secret }, driver.ErrInvalid, "both"},
		{"no endpoint", func(o *S3Options) { o.Endpoint = "" }, driver.ErrInvalid, "endpoint"},
		{"scheme", func(o *S3Options) { o.Endpoint = "ftp://h" }, driver.ErrInvalid, "endpoint"},
		{"path", func(o *S3Options) { o.Endpoint = c.Endpoint + "/path" }, driver.ErrInvalid, "endpoint"},
		{"password", func(o *S3Options) { o.Endpoint = "https://user:" + secret + "@host" }, driver.ErrInvalid, "endpoint"},
		{"prefix", func(o *S3Options) { o.Prefix = "../up" }, driver.ErrInvalid, "key"},
		{"CA file", func(o *S3Options) { o.CAFile = garbage }, driver.ErrInvalid, "PEM"},
		{"no CA file", func(o *S3Options) { o.CAFile = garbage + "x" }, driver.ErrNotExist, "ca.pemx"},
		{"TLS to plain", func(o *S3Options) { o.Endpoint = strings.Replace(c.Endpoint, "http:", "https:", 1) }, nil, "HTTP response to HTTPS"},
	} {
		opts := good
		test.change(&opts)
		_, err := OpenS3(t.Context(), opts)
		if err == nil || test.kind != nil && !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", test.name, err)
		}
		for _, text := range []string{fmt.Sprint(err), fmt.Sprintf("%v %+v %#v %s", opts, opts, opts, &opts)} {
			if strings.Contains(text, secret) || strings.Contains(text, c.SecretKey) {
				t.Errorf("%s: the secret shows in %s", test.name, text)
			}
		}
	}
	good.Endpoint, good.Insecure = strings.TrimPrefix(c.Endpoint, "http://"), true
	s, err := OpenS3(t.Context(), good)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

// TestCredentials takes them away one after another, in the order of precedence.
func TestCredentials(t *testing.T) {
	file := filepath.Join(t.TempDir(), "credentials")
	text := "[default]\naws_access_key_id = file\naws_secret_access_key = s\n[other]\naws_access_key_id = other\naws_secret_access_key = s\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"AWS_PROFILE", "AWS_ACCESS_KEY", "AWS_SECRET_KEY", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "aws")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
	t.Setenv("MINIO_ROOT_USER", "minio")
	t.Setenv("MINIO_ROOT_PASSWORD", "s")
	opts := S3Options{AccessKey: "given", SecretKey: "s", CredentialsFile: file}
	want := func(key string) {
		t.Helper()
		creds, err := opts.newCredentials()
		if err != nil {
			t.Fatal(err)
		}
		v, err := creds.GetWithContext(&credentials.CredContext{Client: http.DefaultClient})
		if key == "" {
			wantErr(t, err, driver.ErrPermission)
			return
		}
		if err != nil || v.AccessKeyID != key {
			t.Errorf("got %q, %v, want %q", v.AccessKeyID, err, key)
		}
		if creds.IsExpired() {
			t.Error("expired at once")
		}
	}
	want("given")
	opts.AccessKey, opts.SecretKey = "", ""
	want("aws")
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	want("minio")
	t.Setenv("MINIO_ROOT_USER", "")
	want("file")
	opts.Profile = "other"
	want("other")
	opts.CredentialsFile += ".none"
	want("")
}

// TestNoPartsLeft sees that a Write that does not end well gives its parts back.
func TestNoPartsLeft(t *testing.T) {
	s := openTestS3(t, nil)
	data := random(40 << 20)
	broken := errors.New("the source broke")
	wantErr(t, s.Write(t.Context(), "o/a", io.MultiReader(bytes.NewReader(data), iotest.ErrReader(broken))), broken)
	ctx, cancel := context.WithCancel(t.Context())
	ended := io.MultiReader(bytes.NewReader(data), readerFunc(func([]byte) (int, error) { cancel(); return 0, nil }), bytes.NewReader(data))
	wantErr(t, s.Write(ctx, "o/a", ended), context.Canceled)
	for range 2 {
		if err := s.Write(t.Context(), "o/a", bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
	}
	wantErr(t, s.Write(t.Context(), "o/a", bytes.NewReader(data[1:])), driver.ErrExists)
	list, err := s.client.ListMultipartUploads(t.Context(), s.opts.Bucket, "", "", "", "", 1000)
	if err != nil || len(list.Uploads) != 0 {
		t.Errorf("uploads left: %d, %v", len(list.Uploads), err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestReaderEndsWithContext(t *testing.T) {
	s := openTestS3(t, nil)
	mustPut(t, s, "o/a", random(8<<20))
	ctx, cancel := context.WithCancel(t.Context())
	r, err := s.Open(ctx, "o/a")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	cancel()
	_, err = io.Copy(io.Discard, r)
	wantErr(t, err, context.Canceled)
}

func TestParseRange(t *testing.T) {
	for _, bad := range []string{"", "bytes", "bytes 1-2", "bytes 2-1/3", "bytes 0-3/3", "bytes */3", "bytes -1-2/3", "bytes 0-1/x"} {
		if f, l, total, err := parseContentRange(bad); err == nil {
			t.Errorf("%q: %d %d %d", bad, f, l, total)
		}
	}
	if f, l, total, err := parseContentRange("bytes 10-19/*"); f != 10 || l != 19 || total != 20 || err != nil {
		t.Error(f, l, total, err)
	}
}
