package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/volehq/vole/driver"
)

// Certificate is the pair of files that the server presents over TLS. It can be reloaded without
// interruption: existing connections keep what they have.
type Certificate struct {
	certFile, keyFile string
	log               *slog.Logger
	current           atomic.Pointer[tls.Certificate]
	lastFingerprint   string // of the files when they were last read; used by Watch only
}

// LoadCertificate reads a pair of PEM files: the certificate with its intermediates, and its
// key. Errors name the files and show nothing of their content. driver.ErrInvalid: they are no
// such pair.
func LoadCertificate(certFile, keyFile string, log *slog.Logger) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, log: log}
	c.lastFingerprint = c.fingerprintFiles()
	return c, c.Reload()
}

// Reload reads the files again. If they are no valid pair, the previous one stays in use.
func (c *Certificate) Reload() error {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if _, ok := err.(*os.PathError); ok {
		return err
	}
	if err != nil {
		return driver.Errorf(driver.ErrInvalid, "%s and %s: %v", c.certFile, c.keyFile, err)
	}
	if pair.Leaf == nil { // GODEBUG can have it so
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return driver.Errorf(driver.ErrInvalid, "%s: %v", c.certFile, err)
		}
	}
	c.current.Store(&pair)
	level := slog.LevelInfo
	if time.Until(pair.Leaf.NotAfter) < 7*24*time.Hour {
		level = slog.LevelWarn
	}
	c.log.Log(context.Background(), level, "certificate loaded", "file", c.certFile, "names", pair.Leaf.DNSNames, "until", pair.Leaf.NotAfter)
	return nil
}

// Watch reloads the files when they change or hup delivers, until ctx ends. It checks for
// changes every so often.
func (c *Certificate) Watch(ctx context.Context, every time.Duration, hup <-chan os.Signal) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		asked := false
		select {
		case <-ctx.Done():
			return
		case <-hup:
			asked = true
		case <-tick.C:
		}
		// The two files are not replaced at the same instant. A pair that does not match is
		// tried again when one of them changes.
		seen := c.fingerprintFiles()
		if seen == c.lastFingerprint && !asked {
			continue
		}
		c.lastFingerprint = seen
		if err := c.Reload(); err != nil {
			c.log.Error("the certificate was not loaded; the one before stays in use", "error", err)
		}
	}
}

// fingerprintFiles returns times and sizes of the files.
func (c *Certificate) fingerprintFiles() string {
	s := ""
	for _, f := range []string{c.certFile, c.keyFile} {
		if i, err := os.Stat(f); err != nil {
			s += "missing "
		} else {
			s += fmt.Sprint(i.ModTime().UnixNano(), " ", i.Size(), " ")
		}
	}
	return s
}

// Config returns a configuration for [Options.TLS].
func (c *Certificate) Config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
	}
}
