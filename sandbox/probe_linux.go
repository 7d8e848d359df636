package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/durable"
)

// verdict says whether a runtime runs containers on this host, for this user.
type verdict struct {
	OK    bool      `json:"ok"`
	Error string    `json:"error,omitempty"`
	At    time.Time `json:"at"`
}

// probeFile keeps verdicts by the key of runtimeProbeKey.
const probeFile = ".runtimes.json"

// maxVerdicts bounds the bytes of the file that are read, more than it ever has.
const maxVerdicts = 1 << 20

// retryAfter is when a runtime that did not work is tried again: the host may have
// changed in ways that the key does not show.
const retryAfter = 10 * time.Minute

// chooseRuntime returns the runtime asked for, or the first that works.
func (m *Manager) chooseRuntime(ctx context.Context, want string) (binary, error) {
	if want != "" {
		return findRuntimeBinary(want)
	}
	known := m.loadProbeVerdicts()
	var reasons []string
	for _, name := range Runtimes {
		b, err := findRuntimeBinary(name)
		if err != nil {
			reasons = append(reasons, name+" is not installed")
			continue
		}
		key, err := runtimeProbeKey(b)
		if err != nil {
			return b, err
		}
		v, ok := known[key]
		if !ok || !v.OK && time.Since(v.At) > retryAfter {
			if v, err = m.probeRuntime(ctx, b); err != nil {
				return b, err
			}
			known[key] = v
			m.storeProbeVerdicts(known)
		}
		if v.OK {
			return b, nil
		}
		reasons = append(reasons, name+" does not work here: "+v.Error)
	}
	return binary{}, driver.Errorf(vole.ErrUnsupported, "no OCI runtime works on this host (%s); install crun or runc", strings.Join(reasons, "; "))
}

// runtimeProbeKey is the key of a verdict: all that it depends on, as far as that is known.
func runtimeProbeKey(b binary) (string, error) {
	st, err := os.Stat(b.Path)
	if err != nil {
		return "", err
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease") // "" where hidden
	return fmt.Sprintf("%s|%d|%d|%d|%s|%s", b.Path, st.ModTime().UnixNano(), st.Size(), os.Geteuid(),
		strings.TrimSpace(string(release)), readBootID()), nil
}

// readBootID returns an id that changes with each boot: a boot may change what a host allows.
func readBootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

func (m *Manager) loadProbeVerdicts() map[string]verdict {
	known := map[string]verdict{}
	// Missing, broken or cut off: probe again.
	if b, err := m.readSandboxFile(probeFile, maxVerdicts); err != nil || json.Unmarshal(b, &known) != nil {
		return map[string]verdict{}
	}
	return known
}

// storeProbeVerdicts replaces the file. That it fails, or another process does the same,
// costs another probe at most.
func (m *Manager) storeProbeVerdicts(known map[string]verdict) {
	if b, err := json.Marshal(known); err == nil {
		_ = durable.WriteFile(m.sandboxDir(probeFile), b, 0o600)
	}
}

// probeRuntime runs "true" on the host's root. Its error is that of ctx.
func (m *Manager) probeRuntime(ctx context.Context, b binary) (verdict, error) {
	run, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := m.tryRuntime(run, b)
	if ctx.Err() != nil {
		return verdict{}, ctx.Err()
	}
	v := verdict{OK: err == nil, At: time.Now().UTC()}
	if err != nil {
		v.Error = err.Error()
	}
	return v, nil
}

// tryRuntime runs "true" in a sandbox without volumes: with a helper and control groups as for any
// other sandbox, but without a row. Its scratch directory begins with ".probe-", which a sweep
// recognizes when this process dies.
func (m *Manager) tryRuntime(ctx context.Context, b binary) error {
	scratch, err := os.MkdirTemp(m.sandboxDir(""), ".probe-")
	if err != nil {
		return err
	}
	defer removeSandboxTree(context.WithoutCancel(ctx), m.sandboxesDir, filepath.Base(scratch))
	id := "probe-" + uuid.NewString()
	have := findUsableCgroups()
	planned := &plan{
		ID: id, Name: "probe", Home: m.home, Scratch: filepath.Clean(scratch), Runtime: b, Rootless: os.Geteuid() != 0,
		Args: []string{"true"},
	}
	if planned.Limits, err = planLimits(Config{}, have); err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		_ = removeSandboxCgroups(ctx, id) // empty groups at worst
		if planned.Group != "" {
			_ = removeCgroupTree(ctx, []string{planned.Group})
		}
	}()
	switch {
	case have.delegated != "":
		planned.Group = filepath.Join(have.delegated, groupPrefix+id)
		if err := writeCgroupLimits(have.delegated, planned.Group, limits{}); err != nil {
			return err
		}
	case have.hasAnyLimit():
		planned.CgroupPath = cgroupDir + "/" + id
	}
	s, err := openStreams(IO{}, false)
	if err != nil {
		return err
	}
	defer s.closeOwnEnds()
	h, err := startHelper(ctx, planned, s.child, nil, func(int) error { return nil })
	s.closeChildEnds()
	if err != nil {
		return err
	}
	select {
	case <-h.done:
	case <-ctx.Done():
		h.killHelper()
		<-h.done
		return ctx.Err()
	}
	switch {
	case h.out.err != nil:
		return h.out.err
	case h.out.crashed:
		return errors.New("its helper died")
	case h.out.exit != 0:
		return fmt.Errorf("true ended with exit code %d", h.out.exit)
	}
	return nil
}
