package sandbox

import (
	"io"
	"os"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// Network says what a sandbox may reach.
type Network string

const (
	NetworkNone Network = "none" // loopback only; the default
	NetworkHost Network = "host" // the host's network
)

// Runtimes that Config.Runtime may name, in the order in which they are tried.
var Runtimes = []string{"crun", "runc", "runsc"}

// DefaultPids is the most processes and threads of a sandbox unless Config.Pids says
// otherwise.
const DefaultPids = 1024

// Config says what to run. The zero value of each field is useful but for Args, which
// may be empty only with an Image that has a command.
type Config struct {
	Name   string   // name among the live sandboxes; "": one is made up
	Args   []string // command and arguments; with an image, after its entrypoint
	Env    []string // "K=V", over the image's and the default ones
	Cwd    string   // working directory; "": the image's, else "/"
	User   string   // user[:group], by name or number; "": the image's, else 0:0
	Mounts []Mount

	Rootfs string // directory to use as root, under a throw-away writable layer
	Image  string // tar file to use as root: a plain one, of docker save, or OCI
	// Entrypoint replaces the image's; a non-nil empty one takes it away.
	Entrypoint []string

	Runtime string    // one of Runtimes, or a path of one; "": the first that works
	Network Network   // "": NetworkNone
	Memory  vole.Size // most memory; 0: half of the host's, where that can be enforced; -1: no limit
	Pids    int64     // most processes and threads; 0: DefaultPids, where that can be enforced; -1: no limit
	CPUs    float64   // most processors used at a time; 0: no limit

	Terminal bool // give the command a terminal
	Remove   bool // forget the sandbox, and its log, when it ended
}

// IO is what a sandbox in the foreground reads and writes. A nil Stdin is empty, a
// nil writer discards. With Config.Terminal all output goes to Stdout.
type IO struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Signals        <-chan os.Signal // forwarded to the command
	Resize         <-chan WindowSize
}

// WindowSize is the size of a terminal in characters.
type WindowSize struct{ Rows, Cols uint16 }

// Status is where a sandbox stands in its life.
type Status string

const (
	StatusCreated  Status = "created"  // its name is taken
	StatusStarting Status = "starting" // volumes are attached, the runtime is at work
	StatusRunning  Status = "running"
	StatusDraining Status = "draining" // asked to stop
	StatusPaused   Status = "paused"
	StatusStopped  Status = "stopped" // ended, by itself or asked to
	StatusCrashed  Status = "crashed" // Vole or the runtime died under it
)

// Live reports whether a sandbox of this status has not ended.
func (s Status) Live() bool { return s != StatusStopped && s != StatusCrashed }

// Info describes a sandbox.
type Info struct {
	ID       string      `json:"id"`
	Name     string      `json:"name"`
	Status   Status      `json:"status"`
	Command  []string    `json:"command"` // as asked for
	Root     string      `json:"root"`    // "host", "dir:PATH" or "image:PATH"
	Runtime  string      `json:"runtime"` // name or path of the runtime
	Detached bool        `json:"detached"`
	Mounts   []MountInfo `json:"mounts"`
	PID      int         `json:"pid"`                 // supervising process
	ExitCode *int        `json:"exit_code,omitempty"` // once the command ended; 128+n for signal n
	Error    string      `json:"error,omitempty"`     // why it did not start, or crashed
	Created  time.Time   `json:"created"`
	Started  *time.Time  `json:"started,omitempty"`
	Ended    *time.Time  `json:"ended,omitempty"`
}

// MountInfo is one volume of a sandbox.
type MountInfo struct {
	Volume   string `json:"volume"`
	VolumeID string `json:"volume_id"`
	Path     string `json:"path"`
	Subpath  string `json:"subpath,omitempty"`
	ReadOnly bool   `json:"read_only"`
}

// Result is how a sandbox ended.
type Result struct {
	ID, Name string
	ExitCode int // of the command; 128+n when signal n ended it
}

// Exit codes of a run that did not come to run its command, as docker has them.
const (
	ExitVole          = 125 // Vole or the runtime failed
	ExitNotExecutable = 126
	ExitNotFound      = 127
)

// ExecError says that the command itself could not be started.
type ExecError struct {
	ExitCode int // ExitNotExecutable or ExitNotFound
	Err      error
}

func (e *ExecError) Error() string { return e.Err.Error() }
func (e *ExecError) Unwrap() error { return e.Err }

// normalize checks c and fills in what does not depend on the host.
func (c *Config) normalize() error {
	if c.Name != "" {
		if err := checkName(c.Name); err != nil {
			return err
		}
	}
	mounts, err := checkMounts(c.Mounts)
	if err != nil {
		return err
	}
	c.Mounts = mounts
	switch {
	case c.Rootfs != "" && c.Image != "":
		return driver.Errorf(vole.ErrInvalid, "a root is either a directory or an image; give one of them")
	case len(c.Args) == 0 && len(c.Entrypoint) == 0 && c.Image == "":
		return driver.Errorf(vole.ErrInvalid, "there is no command to run")
	case len(c.Args) > 0 && c.Args[0] == "" && c.Image == "":
		return driver.Errorf(vole.ErrInvalid, "the command is empty")
	case c.Network == "":
		c.Network = NetworkNone
	case c.Network != NetworkNone && c.Network != NetworkHost:
		return driver.Errorf(vole.ErrInvalid, "unknown network %q; use none or host", c.Network)
	}
	if c.Cwd != "" && (!path.IsAbs(c.Cwd) || strings.ContainsRune(c.Cwd, 0) || !utf8.ValidString(c.Cwd)) {
		return driver.Errorf(vole.ErrInvalid, "working directory %q must be an absolute path", c.Cwd)
	}
	for _, a := range append(append([]string{c.User}, c.Args...), c.Entrypoint...) {
		if strings.ContainsRune(a, 0) {
			return driver.Errorf(vole.ErrInvalid, "argument %q has a NUL byte", a)
		}
		if !utf8.ValidString(a) {
			return driver.Errorf(vole.ErrUnsupported, "argument %q is not UTF-8, which the runtime's configuration (JSON) cannot hold", a)
		}
	}
	return errorsFirst(c.checkEnv(), c.checkLimits())
}

func (c *Config) checkEnv() error {
	for _, e := range c.Env {
		k, _, ok := strings.Cut(e, "=")
		if !ok || k == "" || strings.ContainsRune(e, 0) {
			return driver.Errorf(vole.ErrInvalid, "environment %q: write KEY=VALUE", e)
		}
		if !utf8.ValidString(e) {
			return driver.Errorf(vole.ErrUnsupported, "environment %q is not UTF-8, which the runtime's configuration (JSON) cannot hold", e)
		}
	}
	return nil
}

// minMemory is what a runtime needs to start a command at all.
const minMemory = 8 * vole.MiB

func (c *Config) checkLimits() error {
	switch {
	case c.Memory < -1 || c.Memory > 0 && c.Memory < minMemory:
		return driver.Errorf(vole.ErrInvalid, "memory %v: must be at least %v", c.Memory, minMemory)
	case c.Pids < -1:
		return driver.Errorf(vole.ErrInvalid, "pids %d: must be positive, or -1 for no limit", c.Pids)
	case c.CPUs < 0 || c.CPUs != c.CPUs || c.CPUs > 1<<16 || c.CPUs > 0 && c.CPUs < 0.01:
		return driver.Errorf(vole.ErrInvalid, "cpus %v: must be at least 0.01", c.CPUs)
	}
	return nil
}

// checkName checks a sandbox's name, which follows the rule of volumes' names in 64
// bytes, so that it fits a host name and a holder's name.
func checkName(name string) error {
	if len(name) > 64 {
		return driver.Errorf(vole.ErrInvalid, "the sandbox's name is %d bytes long; the most is 64", len(name))
	}
	if driver.ValidateName(name) != nil {
		return driver.Errorf(vole.ErrInvalid,
			"sandbox name %q: a name is 1 to 64 letters, digits, '.', '_' and '-', and starts with a letter or digit", name)
	}
	return nil
}

func (c *Config) rootName() string {
	switch {
	case c.Image != "":
		return "image:" + c.Image
	case c.Rootfs != "":
		return "dir:" + c.Rootfs
	}
	return "host"
}

// errorsFirst returns the first error that is not nil.
func errorsFirst(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
