package bucket_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/bucket"
)

var (
	faultKills = flag.Int("fault.kills", 30, "how many clients TestKill kills")
	faultSeed  = flag.Uint64("fault.seed", uint64(time.Now().UnixNano()), "of what the fault tests do")
)

// TestKill kills clients while they write, two at a time. All that a client was told to
// be done is there and exact, seen from another; of what was under way there is all or
// nothing; and nothing that they left behind outlives their leases and the sweep.
func TestKill(t *testing.T) {
	t.Parallel()
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			opts := e.fresh(t)
			opts.Lease, opts.Maintain = 2*time.Second, -1
			s, _, f := openShared(t, opts)
			r := rand.New(rand.NewPCG(*faultSeed, 2))
			worlds := map[string]fileTree{}
			steps := 0
			for n := 0; n < (*faultKills+1)/2; n += 2 {
				lines := runKilledClients(t, opts, r, n)
				// What a server still does for a dead client is over once this is done.
				if err := f.WriteFile(t.Context(), "barrier", nil, 0o644); err != nil {
					t.Fatal(err)
				}
				for dir, list := range lines {
					worlds[dir] = mustMatchAcknowledged(t, s, dir, list)
					steps += len(list) / 2
				}
				mustAuditClean(t, s, "after a kill")
				if t.Failed() {
					t.Fatalf("seed %d", *faultSeed)
				}
			}
			for dir, w := range worlds {
				if got, err := readTreeAndClones(t.Context(), s, dir); err != nil || !got.equal(w) {
					t.Errorf("%s has in the end, %v:\n%v\nand had:\n%v", dir, err, got, w)
				}
			}
			t.Logf("%d clients killed after %d steps", len(worlds), steps)
			if steps < len(worlds) {
				t.Error("the clients did next to nothing")
			}
			removeAllAndSweep(t, opts)
		})
	}
}

// runKilledClients runs two clients, kills each at some moment and returns what they said.
func runKilledClients(t *testing.T, opts bucket.Options, r *rand.Rand, n int) map[string][]string {
	t.Helper()
	clients := map[string]*process{}
	lines := map[string][]string{}
	for i := range 2 {
		dir := fmt.Sprintf("c%d", n+i)
		clients[dir] = startClient(t, clientSpec{Do: "work", Opts: opts, Dir: dir, Seed: r.Uint64()})
	}
	for dir, c := range clients {
		for len(lines[dir]) < 2 { // until it has done a step
			lines[dir] = append(lines[dir], c.nextLine(t))
		}
	}
	for dir, c := range clients {
		time.Sleep(rand.N(150 * time.Millisecond))
		lines[dir] = append(lines[dir], c.waitForEnd()...)
	}
	return lines
}

// mustMatchAcknowledged compares what a client left with what it said, and returns that.
func mustMatchAcknowledged(t *testing.T, s *vole.Store, dir string, lines []string) fileTree {
	t.Helper()
	got, err := readTreeAndClones(t.Context(), s, dir)
	if err != nil {
		t.Fatalf("%s: %v", dir, err)
	}
	may := []fileTree{{}}
	for i, l := range lines {
		text, ok := strings.CutPrefix(l, "try ")
		if !ok {
			may = may[len(may)-1:]
			continue
		}
		var o op
		if err := json.Unmarshal([]byte(text), &o); err != nil {
			if i == len(lines)-1 {
				break // cut off by the kill, and so not begun
			}
			t.Fatalf("%q: %v", l, err)
		}
		may = may[len(may)-1].possibleStates(o)
	}
	for _, w := range may {
		if got.equal(w) {
			return w
		}
	}
	t.Errorf("%s has\n%v\nand had, before the last of\n%s\n%v", dir, got, strings.Join(lines[max(0, len(lines)-5):], "\n"), may[0])
	return got
}
