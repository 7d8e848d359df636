package profile

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/durable"
	"github.com/volehq/vole/internal/flock"
)

// File is what the user's file holds.
type File struct {
	Current  string             `json:"current,omitempty"` // "": none was chosen
	Profiles map[string]Profile `json:"profiles"`

	path string // where it was read
}

// mostFile bounds how much of the file is read, in bytes: far more than any user's profiles take.
const mostFile = 1 << 20

// Path is where the file is: $VOLE_CONFIG, else vole/config.json in $XDG_CONFIG_HOME,
// else in ~/.config; on Windows in %AppData%.
func Path() (string, error) {
	if p := os.Getenv("VOLE_CONFIG"); p != "" {
		return filepath.Abs(p)
	}
	if d := os.Getenv("XDG_CONFIG_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "vole", "config.json"), nil
	}
	dir, err := configDir()
	if err != nil {
		return "", driver.Errorf(driver.ErrInvalid, "no place for profiles: %v; set VOLE_CONFIG", err)
	}
	return filepath.Join(dir, "vole", "config.json"), nil
}

func configDir() (string, error) {
	if runtime.GOOS == "windows" {
		return os.UserConfigDir()
	}
	h, err := os.UserHomeDir()
	return filepath.Join(h, ".config"), err
}

// LoadDefault reads the file at Path.
func LoadDefault() (File, error) {
	path, err := Path()
	if err != nil {
		return File{}, err
	}
	return Load(path)
}

// Load reads the file at path; one that is not there is empty. It is refused when it is
// not as it must be, and when it has keys that others can read.
func Load(path string) (File, error) {
	f, err := loadFile(path)
	f.path = path
	if f.Profiles == nil {
		f.Profiles = map[string]Profile{}
	}
	if err != nil {
		return f, &driver.Error{Op: "read profiles", Path: path, Err: err}
	}
	return f, nil
}

func loadFile(path string) (f File, err error) {
	r, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // not to wait for a fifo
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		// A link may lead to a disk that is not mounted. That is not the same as having no
		// profiles: going on with the local home would be a surprise.
		if i, lerr := os.Lstat(path); lerr == nil && i.Mode().Type() == fs.ModeSymlink {
			return f, driver.Errorf(driver.ErrInvalid, "it is a symbolic link that leads nowhere")
		}
		return f, nil
	}
	if err != nil {
		return f, stripPathError(err)
	}
	defer r.Close()
	st, err := r.Stat()
	if err != nil {
		return f, stripPathError(err)
	}
	if !st.Mode().IsRegular() {
		return f, driver.Errorf(driver.ErrInvalid, "it is no regular file")
	}
	b, err := io.ReadAll(io.LimitReader(r, mostFile+1))
	switch {
	case err != nil:
		return f, stripPathError(err)
	case len(b) > mostFile:
		return f, driver.Errorf(driver.ErrInvalid, "it is larger than %d bytes", mostFile)
	}
	if f, err = parseFile(b); err != nil {
		return File{}, err
	}
	// On Windows an access list says who may read it, and this mode tells nothing.
	isOpen := st.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows"
	for _, p := range f.Profiles {
		if p.Key != "" && isOpen {
			return File{}, driver.Errorf(driver.ErrPermission, "it has API keys and others may read or change it (mode %04o); 'chmod 600' it, and make new keys if they should not have seen these", st.Mode().Perm())
		}
	}
	return f, nil
}

// parseFile parses the JSON. It refuses fields that it does not know, which may be meant to restrict
// something. Errors quote no values: one might be a key.
func parseFile(b []byte) (f File, err error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return f, driver.Errorf(driver.ErrInvalid, "it is malformed: %s", describeJSONError(err))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return f, driver.Errorf(driver.ErrInvalid, "it is malformed: something follows the JSON object")
	}
	for name, p := range f.Profiles {
		err := CheckName(name)
		if err == nil {
			err = p.Validate()
		}
		if err != nil {
			return f, driver.Errorf(driver.ErrInvalid, "it is malformed: profile %q: %v", name, err)
		}
	}
	return f, nil
}

// describeJSONError says what is wrong with JSON without quoting a value of it.
func describeJSONError(err error) string {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return "a JSON " + wrong.Value + " stands where it does not belong, at " + wrong.Field
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "the JSON ends too early"
	}
	return err.Error() // of syntax: one character; of an unknown field: its name
}

// stripPathError takes the path out of an error of the system: the one around it has that.
func stripPathError(err error) error {
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// Has reports whether there is a profile of that name.
func (f File) Has(name string) bool {
	_, ok := f.Profiles[name]
	return ok || name == Local
}

// lockWait is how long a change waits for other processes that change the file.
const lockWait = 10 * time.Second

// Change reads the file, lets fn change it and writes it again, all or nothing; others
// that want to change it wait. When fn fails, nothing is written.
func Change(ctx context.Context, path string, fn func(f *File) error) error {
	wrap := func(err error) error {
		if err == nil || errors.As(err, new(*driver.Error)) {
			return err
		}
		return &driver.Error{Op: "write profiles", Path: path, Err: err}
	}
	named := path
	// A link stays one: the file it leads to is what is replaced.
	if to, err := filepath.EvalSymlinks(path); err == nil {
		path = to
	}
	if err := durable.MkdirAll(filepath.Dir(path)); err != nil {
		return wrap(err)
	}
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	lock, err := flock.Wait(ctx, path+".lock")
	if err != nil {
		return wrap(err)
	}
	defer lock.Release()
	f, err := Load(path)
	if err != nil {
		return err
	}
	f.path = named // for messages
	if err := fn(&f); err != nil {
		return err
	}
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return wrap(err)
	}
	if _, err := parseFile(b); err != nil {
		return err // of fn's making
	}
	return wrap(durable.WriteFile(path, append(b, '\n'), 0o600))
}
