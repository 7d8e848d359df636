package server

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/volehq/vole/server/internal/core"
)

const (
	headerTimeout  = 10 * time.Second // for the headers of a request, and for the TLS handshake
	idleTimeout    = 2 * time.Minute  // of a connection between two requests
	maxHeaderBytes = 64 << 10         // bytes of headers
	// maxStreamsPerConn is how many requests one connection of HTTP/2 has at once.
	maxStreamsPerConn = 100
	abortGrace        = 5 * time.Second // for aborted requests to end
)

// Serve answers requests on ln until ctx ends, and then drains: /readyz says so at once, streams
// of events end, after DrainDelay no new connections are accepted, and running requests have up
// to grace to end. It returns when all have ended. It closes ln.
func (s *Server) Serve(ctx context.Context, ln net.Listener, grace time.Duration) error {
	var under sync.WaitGroup // requests
	hs := s.newHTTPServer(&under)
	crowd := &connLimiter{Listener: ln, maxConns: int64(s.core.Options().Descriptors.Connections), maxGoroutines: core.MaxGoroutines(s.opts.Memory)}
	hs.Handler = s.core.LimitPreAuth(crowd.refuseWhenFull(hs.Handler))
	hs.ConnContext = core.ConnContext
	ln = crowd
	done := make(chan error, 1)
	go func() {
		if s.opts.TLS != nil {
			done <- hs.ServeTLS(ln, "", "")
		} else {
			done <- hs.Serve(ln)
		}
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	return s.drainRequests(hs, &under, done, grace)
}

// newHTTPServer configures what bounds a client before its route is known: time and size of
// headers, and streams of one connection. What a body or an answer may take beyond that is
// bounded by package core, which knows the route.
func (s *Server) newHTTPServer(under *sync.WaitGroup) *http.Server {
	header, slack := headerTimeout, s.core.Options().Grace
	if s.opts.slack > 0 {
		header = min(header, s.opts.slack)
	}
	window := core.ReceiveWindow(s.opts.Memory)
	return &http.Server{
		Handler:           countRequests(s.handler, under, header+slack),
		TLSConfig:         atLeastTLS12(s.opts.TLS),
		ReadHeaderTimeout: header,
		ReadTimeout:       header + slack, // for requests without a route; routes set their own
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.opts.Log.Handler(), slog.LevelDebug),
		Protocols:         httpProtocols(s.opts.TLS != nil),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreamsPerConn, MaxReadFrameSize: 64 << 10,
			MaxReceiveBufferPerStream: window, MaxReceiveBufferPerConnection: window,
			// A client that vanished holds its requests no longer than this.
			SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second, WriteByteTimeout: header + slack,
		},
	}
}

// countRequests counts running requests, and gives each on HTTP/1 a new write deadline: the one
// that an earlier request left on the connection does not apply.
func countRequests(h http.Handler, under *sync.WaitGroup, most time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		under.Add(1)
		defer under.Done()
		if r.ProtoMajor == 1 {
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(most))
		}
		h.ServeHTTP(w, r)
	})
}

// drainRequests ends the server as Serve describes. Handlers whose connection was closed still
// use what Close will close, and Shutdown does not wait for them: it waits for their count too.
func (s *Server) drainRequests(hs *http.Server, under *sync.WaitGroup, done chan error, grace time.Duration) error {
	s.opts.Log.Info("draining", "delay", s.opts.DrainDelay, "grace", grace)
	s.core.Drain()
	select {
	case err := <-done: // the listener broke
		done <- err
	case <-time.After(s.opts.DrainDelay):
	case <-s.opts.endDrainDelay:
	}
	end, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	err := hs.Shutdown(end)
	if errors.Is(err, context.DeadlineExceeded) {
		s.opts.Log.Warn("drain: requests were still under way and were broken off", "grace", grace)
		err = hs.Close()
	}
	if serr := <-done; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	// Shutdown does not wait for handlers whose connection was closed.
	ended := make(chan struct{})
	go func() { under.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(abortGrace):
		err = errors.Join(err, errors.New("aborted requests have not ended"))
	}
	return err
}

// httpProtocols enables HTTP/1 and HTTP/2, the latter unencrypted if there is no TLS.
func httpProtocols(secure bool) *http.Protocols {
	p := &http.Protocols{}
	p.SetHTTP1(true)
	p.SetHTTP2(secure)
	p.SetUnencryptedHTTP2(!secure)
	return p
}

// atLeastTLS12 returns a copy of c that refuses older versions.
func atLeastTLS12(c *tls.Config) *tls.Config {
	if c == nil {
		return nil
	}
	c = c.Clone()
	c.MinVersion = max(c.MinVersion, tls.VersionTLS12)
	return c
}
