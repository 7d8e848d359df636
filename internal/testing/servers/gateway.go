package servers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// S3Config holds all that a client needs to use a bucket.
type S3Config struct {
	Endpoint             string // as in http://127.0.0.1:7070
	Region, Bucket       string
	AccessKey, SecretKey string
}

// Gateway is an S3 server of its own, versitygw, on a loopback port.
type Gateway struct {
	bin, dir string
	own      bool // dir is made here, and removed by Close
	secret   string
	mu       sync.Mutex
	port     int
	proc     *process
}

const (
	gatewayKey    = "vole"
	gatewayRegion = "us-east-1"
)

// StartGateway starts a server whose data is in dir, or in a temporary directory when
// dir is "". ctx bounds the start and not the server's life.
func StartGateway(ctx context.Context, dir string) (*Gateway, error) {
	bin, err := findGatewayBinary()
	if err != nil {
		return nil, err
	}
	g := &Gateway{bin: bin, own: dir == "", secret: newSecret()}
	if g.own {
		if dir, err = tempDir("s3"); err != nil {
			return nil, err
		}
	}
	if g.dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	for range portTries {
		if g.port, err = findFreePort(); err != nil {
			break
		}
		if err = g.startAndAwait(ctx); err == nil {
			return g, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(err, g.Close())
}

// Config returns the configuration of a client for a bucket of this server.
func (g *Gateway) Config(bucket string) S3Config {
	g.mu.Lock()
	defer g.mu.Unlock()
	return S3Config{
		Endpoint: "http://127.0.0.1:" + strconv.Itoa(g.port), Region: gatewayRegion, Bucket: bucket,
		AccessKey: gatewayKey, SecretKey: g.secret,
	}
}

// Client returns a client of the server that c is of.
func (c S3Config) Client() (*minio.Client, error) {
	return minio.New(strings.TrimPrefix(c.Endpoint, "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(c.AccessKey, c.SecretKey, ""), Region: c.Region, MaxRetries: 1,
	})
}

// CreateBucket makes an empty bucket.
func (g *Gateway) CreateBucket(name string) error {
	client, err := g.Config(name).Client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return client.MakeBucket(ctx, name, minio.MakeBucketOptions{Region: gatewayRegion})
}

// RemoveBucket removes a bucket with all that is in it.
func (g *Gateway) RemoveBucket(name string) error {
	var errs []error
	for _, dir := range []string{g.dataDir(), g.versionsDir(), g.sidecarDir()} {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, name)))
	}
	return errors.Join(errs...)
}

func (g *Gateway) dataDir() string     { return filepath.Join(g.dir, "s3data") }
func (g *Gateway) versionsDir() string { return filepath.Join(g.dir, "s3versions") }
func (g *Gateway) sidecarDir() string  { return filepath.Join(g.dir, "s3meta") }

// Kill ends the server at once, as kill -9 does.
func (g *Gateway) Kill() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.proc.signalAndWait(syscall.SIGKILL)
}

// Start starts the server again after Kill, on the same port and data.
func (g *Gateway) Start() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	return g.startAndAwait(ctx)
}

func (g *Gateway) startAndAwait(ctx context.Context) error {
	g.mu.Lock()
	proc, err := g.startProcess()
	g.mu.Unlock()
	if err != nil {
		return err
	}
	if err := proc.awaitPing(ctx, g.listBuckets); err != nil {
		return errors.Join(proc.withLog(err), proc.signalAndWait(syscall.SIGKILL))
	}
	return nil
}

func (g *Gateway) startProcess() (*process, error) {
	if g.proc.running() {
		return nil, errors.New("versitygw runs already")
	}
	for _, dir := range []string{g.dataDir(), g.versionsDir(), g.sidecarDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	// Real servers keep connections open; this one has to be told.
	args := []string{"--port", "127.0.0.1:" + strconv.Itoa(g.port), "--region", gatewayRegion, "--quiet", "--keep-alive", "posix"}
	if supportsXattrs(g.dataDir()) {
		args = append(args, "--versioning-dir", g.versionsDir())
	} else {
		args = append(args, "--sidecar", g.sidecarDir())
	}
	cmd := exec.Command(g.bin, append(args, g.dataDir())...)
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+gatewayKey, "ROOT_SECRET_KEY="+g.secret)
	var err error
	g.proc, err = startProcess(cmd, filepath.Join(g.dir, "versitygw.log"), syscall.SIGKILL)
	return g.proc, err
}

// listBuckets succeeds only with the right keys, so that another server on the port fails.
func (g *Gateway) listBuckets(ctx context.Context) error {
	client, err := g.Config("").Client()
	if err != nil {
		return err
	}
	_, err = client.ListBuckets(ctx)
	return err
}

// Close kills the server. It removes the data when StartGateway chose its place.
func (g *Gateway) Close() error {
	err := g.Kill()
	if g.own {
		err = errors.Join(err, os.RemoveAll(g.dir))
	}
	return err
}

// findGatewayBinary looks for versitygw in PATH, in Go's bin directory and in bin/ of the
// repository, where scripts/setup.sh puts it.
func findGatewayBinary() (string, error) {
	if path, err := exec.LookPath("versitygw"); err == nil {
		return filepath.Abs(path)
	}
	var dirs []string
	if out, err := exec.Command("go", "env", "GOBIN", "GOPATH").Output(); err == nil {
		gobin, gopath, _ := strings.Cut(strings.TrimRight(string(out), "\n"), "\n")
		dirs = append(dirs, gobin)
		for _, dir := range filepath.SplitList(gopath) {
			dirs = append(dirs, filepath.Join(dir, "bin"))
		}
	}
	if root := findModuleRoot(); root != "" {
		dirs = append(dirs, filepath.Join(root, "bin"))
	}
	for _, dir := range dirs {
		if path := filepath.Join(dir, "versitygw"); dir != "" && isRegularFile(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("versitygw %w", ErrNotInstalled)
}

// findModuleRoot returns the directory with go.mod at or above the working directory,
// which go test sets to that of the package.
func findModuleRoot() string {
	dir, err := os.Getwd()
	for err == nil && dir != filepath.Dir(dir) {
		if isRegularFile(filepath.Join(dir, "go.mod")) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	return ""
}
