package cloud

import (
	"io"
	"strings"
	"testing"
	"time"
)

// TestWatchEndsWithTheAnswer: what is still read of a request's body when its answer has
// begun starts no clock, which would run while the caller does other things.
func TestWatchEndsWithTheAnswer(t *testing.T) {
	b := &Backend{maxSilence: time.Hour}
	for what, end := range map[string]func(w *watchdog){
		"answer": func(w *watchdog) { w.watchResponse(call{}) },
		"end":    (*watchdog).cancelRequest,
	} {
		w := b.newWatchdog(t.Context(), call{})
		body := &requestBody{strings.NewReader("abc"), w}
		if _, err := io.ReadFull(body, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if !w.timer.Stop() {
			t.Errorf("%s: nobody watches before it", what)
		}
		end(w)
		if _, err := io.ReadAll(body); err != nil {
			t.Fatal(err)
		}
		if w.timer.Stop() {
			t.Errorf("%s: the clock runs after it", what)
		}
	}
}
