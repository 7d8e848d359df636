// Package profile finds out which volumes a program means: those of a local home, or
// those behind a server. A profile is a named way to reach one of these, kept in a
// file of the user; flags and the environment may name a profile, or a place itself.
//
// # Order
//
// The first of these that is set decides, and those after it are not looked at:
//
//  1. what the caller names (flags, the fields of vole.Options)
//  2. VOLE_URL, with VOLE_API_KEY or VOLE_API_KEY_FILE, and perhaps VOLE_CA_FILE
//  3. VOLE_PROFILE
//  4. VOLE_HOME
//  5. the current profile of the file
//  6. the default local home
//
// What contradicts itself is an error, never a guess, and a profile that cannot be used
// never means the local home.
//
// # Secrets
//
// Keys are in the file, in files of their own, and in the environment; nowhere else.
// No error of this package has one in it.
package profile

import (
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/volehq/vole/driver"
)

// Local is the profile that every user has: the local home. No other has its name.
const Local = "local"

// Profile is a way to reach volumes: a home, or a server.
type Profile struct {
	Home string `json:"home,omitempty"` // an absolute path; "" in Local: the default one

	URL    string `json:"url,omitempty"`     // of a server
	Key    string `json:"key,omitempty"`     // secret
	CAFile string `json:"ca_file,omitempty"` // certificates to trust besides the system's
	Org    string `json:"org,omitempty"`     // that the key is of, as the server said at login
	// InsecureHTTP lets the key travel in the clear to a server that is elsewhere.
	InsecureHTTP bool `json:"insecure_http,omitempty"`
}

// Cloud reports whether the volumes are behind a server.
func (p Profile) Cloud() bool { return p.URL != "" }

// Place says where the volumes are.
func (p Profile) Place() string {
	if p.Cloud() {
		return p.URL
	}
	return p.Home
}

// Validate checks a profile. Errors match driver.ErrInvalid and do not tell the key.
func (p Profile) Validate() error {
	switch {
	case p.Home != "" && p.URL != "":
		return driver.Errorf(driver.ErrInvalid, "it has a home and a URL; remove one of them")
	case p.Home == "" && p.URL == "":
		return driver.Errorf(driver.ErrInvalid, "it has neither a home nor a URL")
	case p.Home != "" && (p.Key != "" || p.CAFile != "" || p.InsecureHTTP):
		return driver.Errorf(driver.ErrInvalid, "it has a home, to which neither key, ca_file nor insecure_http belongs")
	case p.Home != "":
		return makeAbsolute("home", p.Home)
	case p.Key == "":
		return driver.Errorf(driver.ErrInvalid, "the server's URL comes without an API key")
	case strings.ContainsFunc(p.Key, func(r rune) bool { return r <= ' ' || r > '~' }):
		return driver.Errorf(driver.ErrInvalid, "the API key has spaces, or characters that no key has")
	}
	if p.CAFile != "" {
		if err := makeAbsolute("ca_file", p.CAFile); err != nil {
			return err
		}
	}
	return CheckURL(p.URL, p.InsecureHTTP)
}

func makeAbsolute(what, p string) error {
	if !filepath.IsAbs(p) {
		return driver.Errorf(driver.ErrInvalid, "%s is %q; write an absolute path", what, p)
	}
	return nil
}

// CheckURL checks the URL of a server that a user gives; see ServerURL.
func CheckURL(text string, insecure bool) error {
	_, err := ServerURL(text, insecure, nil)
	return err
}

// ServerURL is the one rule for the addresses that a key is sent to, from any source: a user, or a server (from is the URL it was reached at) that sends its client elsewhere.
// One of http:// must lead to this host, for the key would travel in the clear; insecure,
// which only a user says, allows others. A server that was reached by TLS leads to no
// address without it. Errors tell the URL only when it has no place for a secret.
func ServerURL(text string, insecure bool, from *url.URL) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil, u.Host == "", u.Hostname() == "", u.Opaque != "", u.Scheme != "http" && u.Scheme != "https":
		return nil, driver.Errorf(driver.ErrInvalid, "the server's URL must be https://HOST[:PORT], or http://HOST:PORT on this host")
	case u.User != nil, u.RawQuery != "", u.ForceQuery, u.Fragment != "":
		return nil, driver.Errorf(driver.ErrInvalid, "the server's URL has a user, query or fragment, which do not belong there; the key is given by itself")
	case u.Scheme == "http" && from != nil && from.Scheme == "https":
		return nil, driver.Errorf(driver.ErrInvalid, "%s has no TLS, and the server that leads there has; use https://", text)
	case from != nil && isLoopbackHost(u.Hostname()) && !isLoopbackHost(from.Hostname()):
		// A service of this host is no server of others, and may trust all that can reach it.
		return nil, driver.Errorf(driver.ErrInvalid, "%s is on this host, and the server that leads there is not", text)
	case u.Scheme == "http" && !insecure && !isLoopbackHost(u.Hostname()):
		return nil, driver.Errorf(driver.ErrInvalid, "%s is not on this host, and without TLS everyone between could read the API key; use https://", text)
	}
	if strings.EqualFold(u.Hostname(), "localhost") {
		u.Host = strings.ToLower(u.Host) // net/http knows no other spelling as this host, and would ask a proxy
	}
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), ""
	return u, nil
}

// isLoopbackHost reports whether a host is certainly this one. Names other than localhost
// are not resolved: the answer may be a lie.
func isLoopbackHost(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// CleanURL brings a URL that CheckURL accepts into one form, so that two are the same
// server when they are equal.
func CleanURL(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return text
	}
	u.Scheme, u.Host = strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	if port := u.Port(); port == "443" && u.Scheme == "https" || port == "80" && u.Scheme == "http" {
		u.Host = strings.TrimSuffix(u.Host, ":"+port)
	}
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), ""
	return u.String()
}

// NameOf is the name for a profile of a server when the user gives none: its host's.
func NameOf(server string) string {
	u, err := url.Parse(server)
	if err != nil {
		return ""
	}
	host := strings.ToLower(u.Hostname())
	if ip := net.ParseIP(host); ip != nil && ip.To4() == nil || host == Local {
		return "server" // a name has no colons, and "local" is taken
	}
	return host
}

// CheckName checks the name of a profile. They are those of volumes, less Local.
func CheckName(name string) error {
	if name == Local {
		return driver.Errorf(driver.ErrInvalid, "%q is the profile of the local home, which is always there; choose another name", Local)
	}
	if driver.ValidateName(name) != nil {
		return driver.Errorf(driver.ErrInvalid, "%q is no name of a profile: write 1 to %d letters, digits, '.', '_' and '-', a letter or digit first", name, driver.MaxNameLen)
	}
	return nil
}
