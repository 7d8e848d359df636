package profile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/volehq/vole/driver"
)

// clean gives a test an environment of its own.
func clean(t *testing.T) (file string) {
	dir := t.TempDir()
	for _, v := range []string{"VOLE_URL", "VOLE_API_KEY", "VOLE_API_KEY_FILE", "VOLE_CA_FILE", "VOLE_PROFILE", "VOLE_HOME", "XDG_CONFIG_HOME"} {
		t.Setenv(v, "")
	}
	file = filepath.Join(dir, "a", "b", "config.json")
	t.Setenv("VOLE_CONFIG", file)
	return file
}

func TestOrder(t *testing.T) {
	file := clean(t)
	ctx := context.Background()
	err := Change(ctx, file, func(f *File) error {
		f.Profiles["acme"] = Profile{URL: "https://acme.example", Key: "k1"}
		f.Profiles["disk"] = Profile{Home: "/disk"}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// Each step sets one thing more, which comes before all that was set.
	check := func(n Named, want string) {
		t.Helper()
		c, err := Resolve(n)
		if got := fmt.Sprintf("%s %s %s", c.Name, c.Place(), c.Key); err != nil || strings.TrimSpace(got) != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	check(Named{}, "local")
	if err := Change(ctx, file, func(f *File) error { f.Current = "acme"; return nil }); err != nil {
		t.Fatal(err)
	}
	check(Named{}, "acme https://acme.example k1")
	t.Setenv("VOLE_HOME", "/home/of/env")
	check(Named{}, "local /home/of/env")
	t.Setenv("VOLE_PROFILE", "disk")
	check(Named{}, "disk /disk")
	t.Setenv("VOLE_PROFILE", "local")
	check(Named{}, "local")
	t.Setenv("VOLE_PROFILE", "")
	t.Setenv("VOLE_URL", "https://env.example/")
	t.Setenv("VOLE_API_KEY", "k2")
	check(Named{}, "https://env.example k2")
	check(Named{Name: "acme"}, "acme https://acme.example k1")
	check(Named{Home: "/mine"}, "/mine")
	check(Named{URL: "http://localhost:1", Key: "k3"}, "http://localhost:1 k3")
	check(Named{URL: "http://10.0.0.1", Key: "k4", InsecureHTTP: true}, "http://10.0.0.1 k4")
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("k4\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("VOLE_API_KEY", "")
	t.Setenv("VOLE_API_KEY_FILE", key)
	check(Named{}, "https://env.example k4")
}

func TestContradictions(t *testing.T) {
	const secret = "vole_secret"
	for _, c := range []struct {
		n    Named
		env  string
		want error
		text string
	}{
		{Named{Home: "/h", Name: "p"}, "", driver.ErrInvalid, "give one of them"},
		{Named{Home: "/h", URL: "https://u", Key: secret}, "", driver.ErrInvalid, "give one of them"},
		{Named{URL: "https://u"}, "VOLE_API_KEY=" + secret, driver.ErrInvalid, "without an API key"},
		{Named{Key: secret}, "", driver.ErrInvalid, "without the URL"},
		{Named{CAFile: "/ca"}, "", driver.ErrInvalid, "without the URL"},
		{Named{URL: "https://u", Key: "two words"}, "", driver.ErrInvalid, "has spaces"},
		{Named{URL: "https://u?key=" + secret, Key: secret}, "", driver.ErrInvalid, "query"},
		{Named{URL: "https://u:" + secret + "@h", Key: secret}, "", driver.ErrInvalid, "user"},
		{Named{URL: "http://10.0.0.1", Key: secret}, "", driver.ErrInvalid, "not on this host"},
		{Named{URL: "http://localhost.example", Key: secret}, "", driver.ErrInvalid, "not on this host"},
		{Named{URL: "http://127.0.0.1.example", Key: secret}, "", driver.ErrInvalid, "not on this host"},
		{Named{}, "VOLE_URL=https://u VOLE_PROFILE=p VOLE_API_KEY=" + secret, driver.ErrInvalid, "VOLE_URL and VOLE_PROFILE"},
		{Named{}, "VOLE_URL=https://u", driver.ErrInvalid, "without a key"},
		{Named{}, "VOLE_URL=https://u VOLE_API_KEY=" + secret + " VOLE_API_KEY_FILE=/f", driver.ErrInvalid, "both set"},
		{Named{}, "VOLE_URL=https://u VOLE_API_KEY_FILE=/nosuch/file", os.ErrNotExist, "/nosuch/file"},
		{Named{}, "VOLE_API_KEY=" + secret, driver.ErrInvalid, "not VOLE_URL"},
		{Named{}, "VOLE_API_KEY_FILE=/f", driver.ErrInvalid, "not VOLE_URL"},
		{Named{Name: "nosuch"}, "VOLE_HOME=/h", driver.ErrNoSuch, "nosuch"},
		{Named{}, "VOLE_PROFILE=nosuch VOLE_HOME=/h", driver.ErrNoSuch, "nosuch"},
	} {
		t.Run("", func(t *testing.T) {
			clean(t)
			for kv := range strings.FieldsSeq(c.env) {
				k, v, _ := strings.Cut(kv, "=")
				t.Setenv(k, v)
			}
			got, err := Resolve(c.n)
			if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.text) || strings.Contains(fmt.Sprint(err), secret) {
				t.Errorf("%+v, %q: %v, %v; want %v with %q", c.n, c.env, got, err, c.want, c.text)
			}
		})
	}
}

func TestLoopback(t *testing.T) {
	for _, u := range []string{"http://localhost", "http://127.0.0.1:80", "http://127.9.9.9", "http://[::1]:8650", "http://[::ffff:127.0.0.1]"} {
		if err := CheckURL(u, false); err != nil {
			t.Errorf("%s: %v", u, err)
		}
	}
	if err := CheckURL("http://10.0.0.1:80", true); err != nil {
		t.Error(err)
	}
	for _, u := range []string{"", "vole.example", "unix:/run/vole", "https://", "https:///x", "://", "https://h#f", "https://h?"} {
		if err := CheckURL(u, true); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("%q: %v, want ErrInvalid", u, err)
		}
	}
	for u, want := range map[string]string{
		"HTTPS://Host.Example:443/": "https://host.example", "http://h:80/a/": "http://h/a", "https://h:80": "https://h:80", "http://[::1]:80": "http://[::1]",
	} {
		if got := CleanURL(u); got != want {
			t.Errorf("%s: %s, want %s", u, got, want)
		}
	}
	for u, want := range map[string]string{"https://Vole.example:8650": "vole.example", "http://[::1]:1": "server", "https://local": "server"} {
		if got := NameOf(u); got != want || CheckName(got) != nil {
			t.Errorf("%s: %q, want %q", u, got, want)
		}
	}
}

// Many that change the file at once lose nothing of each other's.
func TestChangesAtOnce(t *testing.T) {
	file := clean(t)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			err := Change(context.Background(), file, func(f *File) error {
				f.Profiles[fmt.Sprintf("p%d", i)] = Profile{URL: "https://h", Key: "k"}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	f, err := Load(file)
	if err != nil || len(f.Profiles) != 20 {
		t.Errorf("%d profiles, %v; want 20", len(f.Profiles), err)
	}
	st, err := os.Stat(file)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v; want 0600", st.Mode(), err)
	}
	list, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(list) != 2 { // the file and its lock
		t.Errorf("%v, %v: want nothing temporary", list, err)
	}
}

// What fails leaves the file as it was.
func TestChangeFails(t *testing.T) {
	file := clean(t)
	for _, change := range []func(f *File) error{
		func(f *File) error { f.Profiles["x"] = Profile{Home: "/x"}; return driver.ErrExists },
		func(f *File) error { f.Profiles["local"] = Profile{Home: "/x"}; return nil },
		func(f *File) error { f.Profiles["x"] = Profile{Home: "relative"}; return nil },
		func(f *File) error { f.Profiles["x"] = Profile{URL: "http://10.0.0.1", Key: "k"}; return nil },
	} {
		if err := Change(context.Background(), file, change); err == nil {
			t.Error("no error")
		}
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v; want no file", err)
	}
}

// A file on a disk that is not there, or with a mistyped name, does not mean the local home.
// A server elsewhere leads no client to what listens on the client's own host.
func TestLedToThisHost(t *testing.T) {
	for from, refused := range map[string]bool{"https://vole.example": true, "http://10.0.0.1": true, "http://127.0.0.1:1": false, "http://localhost": false} {
		base, err := ServerURL(from, true, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, to := range []string{"http://127.0.0.1:2375", "http://LocalHost:1", "http://[::1]:1", "http://[::ffff:127.0.0.1]:1", "https://127.0.0.1"} {
			if _, err := ServerURL(to, true, base); errors.Is(err, driver.ErrInvalid) != refused {
				t.Errorf("%s to %s: %v, want it refused: %v", from, to, err, refused)
			}
		}
	}
}

func TestLinkToNowhere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "vole", "config.json")
	t.Setenv("XDG_CONFIG_HOME", dir)
	for _, v := range []string{"VOLE_CONFIG", "VOLE_URL", "VOLE_PROFILE", "VOLE_HOME", "VOLE_API_KEY", "VOLE_API_KEY_FILE"} {
		t.Setenv(v, "")
	}
	if c, err := Resolve(Named{}); err != nil || c.Name != Local {
		t.Errorf("without a file: %v, %v", c, err)
	}
	t.Setenv("VOLE_CONFIG", filepath.Join(dir, "typo.json"))
	if c, err := Resolve(Named{}); err == nil {
		t.Errorf("VOLE_CONFIG names nothing: %v", c)
	}
	t.Setenv("VOLE_CONFIG", "")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(t.TempDir(), "away", "config.json"), path); err != nil {
		t.Fatal(err)
	}
	if c, err := Resolve(Named{}); err == nil {
		t.Errorf("a link that leads nowhere: %v", c)
	}
}
