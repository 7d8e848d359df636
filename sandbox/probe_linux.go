package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	nolinks "github.com/volehq/vole/internal/beneath"
)

// verdict says whether a runtime runs containers on this host, for this user.
type verdict struct {
	OK    bool      `json:"ok"`
	Error string    `json:"error,omitempty"`
	At    time.Time `json:"at"`
}

// probeFile keeps verdicts, by what they depend on.
const probeFile = ".runtimes.json"

// maxVerdicts is more than the file ever has.
const maxVerdicts = 1 << 20

// retryAfter is when a runtime that did not work is tried again: the host may have
// changed in ways that the key does not show.
const retryAfter = 10 * time.Minute

// runtime returns the runtime asked for, or the first that works.
func (m *Manager) runtime(ctx context.Context, want string) (binary, error) {
	if want != "" {
		return find(want)
	}
	known := m.verdicts()
	var reasons []string
	for _, name := range Runtimes {
		b, err := find(name)
		if err != nil {
			reasons = append(reasons, name+" is not installed")
			continue
		}
		key, err := probeKey(b)
		if err != nil {
			return b, err
		}
		v, ok := known[key]
		if !ok || !v.OK && time.Since(v.At) > retryAfter {
			if v, err = m.probe(ctx, b); err != nil {
				return b, err
			}
			known[key] = v
			m.storeVerdicts(known)
		}
		if v.OK {
			return b, nil
		}
		reasons = append(reasons, name+" does not work here: "+v.Error)
	}
	return binary{}, driver.Errorf(vole.ErrUnsupported, "no OCI runtime works on this host (%s); install crun or runc", strings.Join(reasons, "; "))
}

// probeKey names what a verdict depends on.
func probeKey(b binary) (string, error) {
	st, err := os.Stat(b.Path)
	if err != nil {
		return "", err
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease") // "" where hidden
	return fmt.Sprintf("%s|%d|%d|%d|%s|%s", b.Path, st.ModTime().UnixNano(), st.Size(), os.Geteuid(),
		strings.TrimSpace(string(release)), bootID()), nil
}

// bootID changes with each boot, since a boot may change what a host allows.
func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

func (m *Manager) verdicts() map[string]verdict {
	known := map[string]verdict{}
	f, err := nolinks.OpenFile(m.top, probeFile, os.O_RDONLY, 0)
	if err != nil {
		return known
	}
	defer f.Close()
	// Broken or cut off: probe again.
	if b, err := io.ReadAll(io.LimitReader(f, maxVerdicts)); err != nil || json.Unmarshal(b, &known) != nil {
		return map[string]verdict{}
	}
	return known
}

// storeVerdicts replaces the file. That it fails, or another process does the same,
// costs another probe at most.
func (m *Manager) storeVerdicts(known map[string]verdict) {
	b, err := json.Marshal(known)
	if err != nil {
		return
	}
	f, err := os.CreateTemp(m.dir(""), probeFile+"-")
	if err != nil {
		return
	}
	_, err = f.Write(b)
	if errors.Join(err, f.Close()) == nil {
		err = os.Rename(f.Name(), m.dir(probeFile))
	}
	if err != nil {
		os.Remove(f.Name())
	}
}

// probe runs "true" on the host's root. Its error is that of ctx.
func (m *Manager) probe(ctx context.Context, b binary) (verdict, error) {
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

func (m *Manager) tryRuntime(ctx context.Context, b binary) error {
	scratch, err := os.MkdirTemp(m.dir(""), ".probe-")
	if err != nil {
		return err
	}
	defer removeTree(context.WithoutCancel(ctx), m.top, filepath.Base(scratch))
	id := "probe-" + uuid.NewString()
	have := findCgroups()
	p := &plan{
		ID: id, Name: "probe", Home: m.home, Scratch: filepath.Clean(scratch), Runtime: b, Rootless: os.Geteuid() != 0,
		Args: []string{"true"},
	}
	if p.Limits, err = planLimits(Config{}, have); err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		_ = removeCgroups(ctx, id) // empty groups at worst
		if p.Group != "" {
			_ = removeGroups(ctx, []string{p.Group})
		}
	}()
	switch {
	case have.delegated != "":
		p.Group = filepath.Join(have.delegated, groupPrefix+id)
		if err := limitGroup(have.delegated, p.Group, limits{}); err != nil {
			return err
		}
	case have.any():
		p.CgroupPath = cgroupDir + "/" + id
	}
	s, err := openStreams(IO{}, false)
	if err != nil {
		return err
	}
	defer s.close()
	h, err := startHelper(ctx, p, s.child, nil, func(int) error { return nil })
	s.closeChild()
	if err != nil {
		return err
	}
	select {
	case <-h.done:
	case <-ctx.Done():
		h.kill()
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
