package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/server"
)

// watchEvery is how often the files of a certificate are looked at.
const watchEvery = 5 * time.Second

// runServer runs until the context of the command ends, which the first signal does. Everything that
// a mistake in the settings can make fail comes before the volumes are opened; serving begins only
// when the first key has been shown, since a server without a key is of no use.
func (a *app) runServer(cmd *cobra.Command, f *serveFlags) error {
	ctx := cmd.Context()
	opts, err := a.serverOptions(cmd, f)
	if err != nil {
		return err
	}
	log := opts.Log
	cert, err := f.loadCertificate(log)
	if err != nil {
		return err
	}
	if cert != nil {
		opts.TLS = cert.Config()
	}
	// Before the volumes are opened: an address that is in use is told at once.
	ln, err := f.openListener(ctx)
	if err != nil {
		return err
	}
	defer ln.Close()
	s, err := server.New(ctx, opts)
	if err != nil {
		return &vole.Error{Op: "serve", Err: err}
	}
	limitMemory(opts.Memory)
	err = a.serveOnListener(ctx, f, s, ln, cert, log.With(opts.Places()...), log)
	return errors.Join(err, s.Close())
}

// serverOptions makes the server's options of the flags, the environment and the configuration file.
func (a *app) serverOptions(cmd *cobra.Command, f *serveFlags) (o server.Options, err error) {
	if err := f.resolveSettings(cmd, a.warnf); err != nil {
		return o, err
	}
	log, err := f.newLogger(a)
	if err != nil {
		return o, err
	}
	return f.serverOptions(a, log)
}

// limitMemory has the collector work harder when the heap comes near to the memory that the
// process may take. A quarter is for what it does not count: the databases' caches. GOMEMLIMIT in
// the environment goes first.
func limitMemory(n int64) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(n / 4 * 3)
	}
}

// serveOnListener serves until ctx is done, and tells the service manager. The logger placed adds
// where the data is.
func (a *app) serveOnListener(ctx context.Context, f *serveFlags, s *server.Server, ln net.Listener, cert *server.Certificate, placed, log *slog.Logger) error {
	if err := a.createFirstKey(ctx, f, s, f.clientURL(ln), log); err != nil {
		return err
	}
	life, stop := context.WithCancel(ctx)
	defer stop()
	hup := make(chan os.Signal, 1)
	if cert != nil || !isTerminal(a.stdin) {
		signal.Notify(hup, syscall.SIGHUP)
		defer signal.Stop(hup)
	}
	if cert != nil {
		go cert.Watch(life, watchEvery, hup)
	}
	placed.Info("serving", "url", f.clientURL(ln), "backend", f.backend, "version", buildVersion().Version)
	if err := notifyServiceManager("READY=1"); err != nil {
		log.Warn("the service manager was not told", "error", err)
	}
	defer context.AfterFunc(ctx, func() { _ = notifyServiceManager("STOPPING=1") })()
	err := s.Serve(ctx, ln, f.drain)
	log.Info("ended")
	return err
}

// newLogger logs to standard error. As JSON it escapes what a terminal acts on everywhere: logs are
// read on terminals in the end.
func (f *serveFlags) newLogger(a *app) (*slog.Logger, error) {
	var level slog.Level
	if level.UnmarshalText([]byte(f.logLevel)) != nil {
		return nil, usageErrorf("--log-level %s: use debug, info, warn or error", f.logLevel)
	}
	o, isJSON := &slog.HandlerOptions{Level: level}, true
	switch f.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(a.stderr, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(newScreen(a.payloadErr, &isJSON), o)), nil
	}
	return nil, usageErrorf("--log-format %s: use text or json", f.logFormat)
}

// loadCertificate returns nil for a server without TLS.
func (f *serveFlags) loadCertificate(log *slog.Logger) (*server.Certificate, error) {
	switch {
	case f.tlsCert == "" && f.tlsKey == "":
		return nil, nil
	case f.tlsCert == "" || f.tlsKey == "":
		return nil, usageErrorf("--tls-cert and --tls-key go together")
	}
	return server.LoadCertificate(f.tlsCert, f.tlsKey, log)
}

// openListener listens on the address, after a look at who may come.
func (f *serveFlags) openListener(ctx context.Context) (net.Listener, error) {
	if path, ok := strings.CutPrefix(f.listen, "unix:"); ok {
		return listenUnix(ctx, path)
	}
	addr, err := net.ResolveTCPAddr("tcp", f.listen)
	if err != nil {
		return nil, usageErrorf("--listen %s: give HOST:PORT or unix:PATH: %v", f.listen, err)
	}
	if f.tlsCert == "" && !f.insecureHTTP && !addr.IP.IsLoopback() {
		return nil, &hinted{usageErrorf("--listen %s: other hosts reach this address, and without TLS keys and files can be read on the way", f.listen),
			"give --tls-cert and --tls-key; or --insecure-http where a proxy or the network sees to it"}
	}
	ln, err := net.ListenTCP("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, driver.Errorf(vole.ErrInUse, "--listen %s: something else listens there", f.listen)
	}
	return ln, err
}

// listenUnix makes a socket that only this user can connect to. One that a server left
// behind that was killed is replaced.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if path == "" {
		return nil, usageErrorf("--listen unix:PATH: the path is missing")
	}
	if i, err := os.Lstat(path); err == nil {
		if i.Mode().Type() != fs.ModeSocket {
			return nil, driver.Errorf(vole.ErrExists, "--listen: %s exists and is not a socket", path)
		}
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
		if err == nil {
			_ = c.Close()
			return nil, driver.Errorf(vole.ErrInUse, "--listen: a process listens on %s", path)
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, err
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	defer restrictNewFiles()() // the mode is right from the beginning; nothing else makes files yet
	return net.Listen("unix", path)
}

// clientURL is how this host's clients reach the server.
func (f *serveFlags) clientURL(ln net.Listener) string {
	scheme := "http"
	if f.tlsCert != "" {
		scheme = "https"
	}
	addr, ok := ln.Addr().(*net.TCPAddr)
	if !ok {
		return f.listen
	}
	host, _, _ := net.SplitHostPort(f.listen)
	if addr.IP.IsUnspecified() {
		if host, _ = os.Hostname(); host == "" {
			host = "localhost"
		}
	}
	return fmt.Sprintf("%s://%s", scheme, net.JoinHostPort(host, fmt.Sprint(addr.Port)))
}

// notifyServiceManager tells systemd a state, if it asked for that (sd_notify(3)).
func notifyServiceManager(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	if path[0] == '@' { // in the abstract namespace
		path = "\x00" + path[1:]
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte(state))
	return err
}
