package profile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/volehq/vole/driver"
)

// Named is what the caller names. At most one of Home, Name and URL may be set.
type Named struct {
	Home string
	Name string // of a profile

	URL, Key, CAFile string
	InsecureHTTP     bool // see Profile
}

// Choice is the profile in effect, and what put it there.
type Choice struct {
	Profile
	Name   string // "": a place that has no name
	Source string // what decided: a flag's or variable's name, the file's path, "default"
}

// String names the choice for people.
func (c Choice) String() string {
	switch {
	case c.Name != "" && c.Cloud():
		return "profile " + c.Name + " (" + c.URL + ")"
	case c.Cloud():
		return "the server " + c.URL
	case c.Name != "" && c.Name != Local:
		return "profile " + c.Name + " (" + c.Home + ")"
	}
	return "the local home"
}

// Resolve finds out which profile is in effect; see the package comment. A home in it
// is "" when it is the default one.
func Resolve(n Named) (Choice, error) {
	if err := n.checkExclusive(); err != nil {
		return Choice{}, err
	}
	switch {
	case n.Home != "":
		return choiceOfHome(n.Home, "", "--home")
	case n.URL != "":
		return choiceOfServer(Profile{URL: n.URL, Key: n.Key, CAFile: n.CAFile, InsecureHTTP: n.InsecureHTTP}, "the program")
	case n.Name != "":
		return choiceOfProfile(n.Name, "--profile")
	}
	return choiceFromEnv()
}

func (n Named) checkExclusive() error {
	set := 0
	for _, s := range []string{n.Home, n.Name, n.URL} {
		if s != "" {
			set++
		}
	}
	switch {
	case set > 1:
		return driver.Errorf(driver.ErrInvalid, "a home, a profile and a URL each say where the volumes are; give one of them")
	case n.URL == "" && n.Key != "":
		return driver.Errorf(driver.ErrInvalid, "an API key is given without the URL of a server")
	case n.URL == "" && n.CAFile != "":
		return driver.Errorf(driver.ErrInvalid, "a file of certificates is given without the URL of a server")
	}
	return nil
}

// choiceFromEnv resolves what the environment and the file say.
func choiceFromEnv() (Choice, error) {
	server, name := os.Getenv("VOLE_URL"), os.Getenv("VOLE_PROFILE")
	switch {
	case server != "" && name != "":
		return Choice{}, driver.Errorf(driver.ErrInvalid, "VOLE_URL and VOLE_PROFILE are both set; unset one of them")
	case server != "":
		key, err := keyFromEnv()
		if err != nil {
			return Choice{}, err
		}
		return choiceOfServer(Profile{URL: server, Key: key, CAFile: os.Getenv("VOLE_CA_FILE")}, "VOLE_URL")
	case name != "":
		return choiceOfProfile(name, "VOLE_PROFILE")
	case os.Getenv("VOLE_HOME") != "":
		return choiceOfHome(os.Getenv("VOLE_HOME"), Local, "VOLE_HOME")
	}
	// A key in the environment means a server; the local disk would be a surprise.
	for _, v := range []string{"VOLE_API_KEY", "VOLE_API_KEY_FILE"} {
		if os.Getenv(v) != "" {
			return Choice{}, driver.Errorf(driver.ErrInvalid, "%s is set, but not VOLE_URL; set that too, or say with --profile or VOLE_PROFILE where the volumes are", v)
		}
	}
	return currentProfile()
}

// keyFromEnv is the key for the server at VOLE_URL.
func keyFromEnv() (string, error) {
	key, file := os.Getenv("VOLE_API_KEY"), os.Getenv("VOLE_API_KEY_FILE")
	switch {
	case key != "" && file != "":
		return "", driver.Errorf(driver.ErrInvalid, "VOLE_API_KEY and VOLE_API_KEY_FILE are both set; unset one of them")
	case key != "":
		return key, nil
	case file == "":
		return "", driver.Errorf(driver.ErrInvalid, "VOLE_URL is set without a key; set VOLE_API_KEY or VOLE_API_KEY_FILE")
	}
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return ReadKey(f)
}

// mostKey bounds the size of a key in bytes. Tokens of identity providers are the largest.
const mostKey = 64 << 10

// ReadKey reads a key, on one line.
func ReadKey(r io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, mostKey+1))
	key := strings.TrimSpace(string(b))
	switch {
	case err != nil:
		return "", err
	case key == "":
		return "", driver.Errorf(driver.ErrInvalid, "the API key is empty")
	case len(b) > mostKey, strings.ContainsAny(key, "\r\n"):
		return "", driver.Errorf(driver.ErrInvalid, "the API key must be a single line")
	}
	return key, nil
}

func choiceOfHome(home, name, source string) (Choice, error) {
	home, err := filepath.Abs(home)
	return Choice{Profile{Home: home}, name, source}, err
}

func choiceOfServer(p Profile, source string) (c Choice, err error) {
	if p.CAFile != "" {
		if p.CAFile, err = filepath.Abs(p.CAFile); err != nil {
			return c, err
		}
	}
	if err := p.Validate(); err != nil {
		return c, driver.Errorf(driver.ErrInvalid, "%s: %v", source, err)
	}
	p.URL = CleanURL(p.URL)
	return Choice{p, "", source}, nil
}

// choiceOfProfile looks a profile up in the file. The local home is not in it, so that a file
// that is damaged keeps no user from it.
func choiceOfProfile(name, source string) (Choice, error) {
	if name == Local {
		return Choice{Profile{}, Local, source}, nil
	}
	f, err := LoadDefault()
	if err != nil {
		return Choice{}, err
	}
	return f.chooseProfile(name, source)
}

func (f File) chooseProfile(name, source string) (Choice, error) {
	if name == Local {
		return Choice{Profile{}, Local, source}, nil
	}
	p, ok := f.Profiles[name]
	if !ok {
		return Choice{}, f.Unknown(name)
	}
	return Choice{p, name, source}, nil
}

// Unknown is the error for a profile that the file does not have.
func (f File) Unknown(name string) error {
	return driver.Errorf(driver.ErrNoSuch, "no profile %q in %s; 'vole profile ls' lists them, 'vole login' makes one", name, f.path)
}

// currentProfile is the current profile of the file, or the local home when none was chosen.
func currentProfile() (Choice, error) {
	path, err := Path()
	if err != nil { // nobody has a file who has no home directory
		return Choice{Profile{}, Local, "default"}, nil
	}
	if os.Getenv("VOLE_CONFIG") != "" {
		// A mistyped name must not lead to this host's volumes.
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return Choice{}, driver.Errorf(driver.ErrNoSuch, "VOLE_CONFIG names %s, which is not there; 'vole login' makes it", path)
		}
	}
	f, err := Load(path)
	switch {
	case err != nil:
		return Choice{}, err
	case f.Current == "":
		return Choice{Profile{}, Local, "default"}, nil
	}
	return f.chooseProfile(f.Current, path)
}
