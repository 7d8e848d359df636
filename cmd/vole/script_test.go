//go:build unix

package main

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/volehq/vole/sandbox"
)

func TestMain(m *testing.M) {
	sandbox.Init() // the helpers of vole run are this binary
	// Scripts, and the tests of servers, wait more than they compute.
	if err := flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))); err != nil {
		panic(err)
	}
	testscript.Main(m, map[string]func(){"vole": main})
}

// TestScript runs testdata/script: vole as its users run it, one process a command.
//
// Beside testscript's own commands the scripts have
//
//	exitcode N COMMAND...        run it and check the exit code
//	until COMMAND...             run it until it succeeds, for 20 seconds at most
//	gone FILE                    the process whose id is in FILE ends
//	keys FILE PATH KEY...        the JSON object at PATH has these keys ("k?": perhaps)
//	value FILE PATH VALUE        the JSON value at PATH
//	mktar FILE SPEC              make a tar file, see mktar
//	setmeta FILE K=V...          set mode=, mtime=, size=, xattr:NAME=
//	namespace DIR ORG VOLUME FILE...
//	                             put files of the host into a volume of a namespace
//	server DIR [home|tls]        serve a namespace, or a home: $URL, and the first key in DIR.key
//	server stop DIR              end that
//	registry start               run a registry of images: $REGISTRY
//	registry push NAME TAR       put an image there whose root is a tar file
//	registry layout DIR TAR      make an OCI layout of such an image
//	registry save FILE TAR       make an archive of it, as docker save does
//	registry stop                end the registry
//	meta FILE K=V...             check mode=, mtime=, nlink=, link=, uid=, alloc<=, xattr:NAME=
//
// Scripts about loop devices, control groups and mounts work on the disk, the others in the tmpfs
// that scripts/gotest.sh provides: what they write is synced all the time.
func TestScript(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	var onDisk, inMemory []string
	for _, file := range files {
		if needsDisk.MatchString(filepath.Base(file)) {
			onDisk = append(onDisk, file)
		} else {
			inMemory = append(inMemory, file)
		}
	}
	runScripts(t, onDisk, "")
	runScripts(t, inMemory, os.Getenv("VOLE_TEST_TMPFS"))
}

// needsDisk matches the names of scripts that work on the disk.
var needsDisk = regexp.MustCompile(`^(attach|disk|full_disk|run)`)

// runScripts runs scripts with their directories in root; "": where temporary files are.
func runScripts(t *testing.T, files []string, root string) {
	if root != "" { // not Params.WorkdirRoot, whose directories testscript leaves behind
		defer os.Setenv("GOTMPDIR", os.Getenv("GOTMPDIR"))
		os.Setenv("GOTMPDIR", root)
	}
	testscript.Run(t, testscript.Params{
		Files:               files,
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("VOLE_HOME", filepath.Join(e.WorkDir, "home"))
			e.Setenv("TZ", "UTC")
			e.Values[serversKey{}] = newScriptServers()
			e.Values[registryKey{}] = new(scriptRegistry)
			return nil
		},
		Condition: condition,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exitcode":  cmdExitcode,
			"until":     cmdUntil,
			"gone":      cmdGone,
			"keys":      cmdKeys,
			"value":     cmdValue,
			"cutgrow":   cmdCutgrow,
			"mktar":     cmdMktar,
			"setmeta":   cmdSetmeta,
			"meta":      cmdMeta,
			"namespace": cmdNamespace,
			"server":    cmdServer,
			"registry":  cmdRegistry,
		},
	})
}

// condition decides [root], [loop]: there are loop devices, and [userns]: ordinary users may make user namespaces,
// and su can make one of them of root.
func condition(cond string) (bool, error) {
	switch cond {
	case "root":
		return os.Geteuid() == 0, nil
	case "loop":
		_, err := os.Stat("/dev/loop-control")
		return err == nil, nil
	case "userns":
		return os.Geteuid() == 0 && runtime.GOOS == "linux" &&
			exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "-Um", "true").Run() == nil, nil
	}
	return false, errors.New("unknown condition")
}

func cmdExitcode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exitcode N COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if ee := (*exec.ExitError)(nil); errors.As(err, &ee) {
		code = ee.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// retry calls ok until it is true.
func retry(ts *testscript.TestScript, what string, ok func() bool) {
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			ts.Fatalf("%s: not in 20 seconds", what)
		}
	}
}

func cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	retry(ts, strings.Join(args, " "), func() bool { return (ts.Exec(args[0], args[1:]...) == nil) != neg })
}

func cmdGone(ts *testscript.TestScript, neg bool, args []string) {
	pid := strings.TrimSpace(ts.ReadFile(args[0]))
	if _, err := strconv.Atoi(pid); err != nil {
		ts.Fatalf("%s: %v", args[0], err)
	}
	gone := func() bool {
		// ps is on every system, and shows a process that nobody has waited for as Z.
		out, err := exec.Command("ps", "-o", "stat=", "-p", pid).Output()
		return err != nil || strings.HasPrefix(strings.TrimSpace(string(out)), "Z")
	}
	if neg {
		if gone() {
			ts.Fatalf("process %s is gone", pid)
		}
		return
	}
	retry(ts, "process "+pid+" gone", gone)
}
