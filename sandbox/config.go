package sandbox

import (
	"io"
	"os"
	"time"

	"github.com/volehq/vole"
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
	// Image is a tar file to use as root (a plain one, of docker save, or OCI), a directory
	// in the form of an OCI layout, or if there is no such file the name of an image of a
	// registry, as "docker.io/library/ubuntu:24.04" or just "ubuntu".
	Image string
	Pull  PullPolicy // when the registry is asked for it; "": PullMissing
	// PullProgress is told how fetching the image goes; nil is silent.
	PullProgress PullProgress `json:"-"`
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

// PullPolicy says when a registry is asked for an image. Fetched images are kept in a cache
// in the home.
type PullPolicy string

const (
	PullMissing PullPolicy = "missing" // when the cache does not have it; the default
	PullAlways  PullPolicy = "always"  // and fetched again if it has changed
	PullNever   PullPolicy = "never"   // ErrNoSuch when the cache does not have it
)

// ImageInfo is an image of a registry in the cache of a home.
type ImageInfo struct {
	Name     string    `json:"name"`      // whole, with host and tag or digest
	Digest   string    `json:"digest"`    // of its manifest
	Size     vole.Size `json:"size"`      // of all its blobs, including those shared with other images; 0: it is damaged
	LastUsed time.Time `json:"last_used"` // when it was fetched, or a sandbox was made of it
}

// PullProgress is told how an image is fetched, from several goroutines.
type PullProgress interface {
	Begin(image string, bytes int64) // bytes of all its blobs
	Add(n int)                       // bytes that arrived or were in the cache; negative when some are fetched again
	End(err error)                   // if it began
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

// Status is the state of a sandbox.
type Status string

const (
	StatusCreated  Status = "created"  // its name is reserved
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
	Root     string      `json:"root"`    // "host", "dir:PATH", "image:PATH" or "image:NAME@DIGEST"
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
	// Cleanup is what went wrong after the command ran to its end, if anything: a
	// scratch directory that could not be removed, say. Volumes are detached in any case.
	Cleanup error
}

// Exit codes of a run that could not start its command, the same as docker's.
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
