package core

import (
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"testing"
	"time"
)

// onceClock is a map of answers whose time stands still until a test moves it.
type onceClock struct {
	*idempotencyCache
	at time.Time
}

func newOnceClock() *onceClock {
	c := &onceClock{idempotencyCache: newIdempotencyCache(), at: time.Unix(1e9, 0)}
	c.now = func() time.Time { return c.at }
	return c
}

// answer has a request made and answered.
func (c *onceClock) answer(org, key string, status int, body string) error {
	c.mu.Lock()
	x, err := c.reserveAnswer(org, hashAnswerKey("me", key), func() {})
	c.mu.Unlock()
	if err == nil {
		c.storeAnswer(org, x, cachedAnswer{status: uint16(status), header: emptyHeader, body: body})
	}
	return err
}

func (c *onceClock) has(org, key string) bool {
	return c.answersOf(org).byKey[hashAnswerKey("me", key)] != nil
}

// Whoever makes many changes in a row is never refused for it, and what is counted for
// their answers is no less than what they take.
func TestOnceManyInARow(t *testing.T) {
	c := newOnceClock()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range 200_000 {
		status, body := http.StatusNoContent, ""
		if i%2 == 0 {
			status, body = http.StatusOK, fmt.Sprintf("{\"offset\":%d}\n", i)
		}
		if err := c.answer("org", fmt.Sprint(i), status, body); err != nil {
			t.Fatalf("change %d: %v", i, err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	for _, i := range []int{0, 1, 100_000, 199_999} {
		if !c.has("org", fmt.Sprint(i)) {
			t.Errorf("the answer of change %d is gone, within a minute", i)
		}
	}
	if took := int64(after.HeapAlloc) - int64(before.HeapAlloc); took > c.size {
		t.Errorf("the answers take %d bytes, and %d are counted", took, c.size)
	}
	runtime.KeepAlive(c)
}

// An organisation's answers make room for its own only, the oldest first, and none that is
// younger than a minute.
func TestOnceBudget(t *testing.T) {
	c := newOnceClock()
	c.maxOrgBytes, c.maxBytes = 10*answerOverhead, 100*answerOverhead
	if err := c.answer("victim", "append", 200, ""); err != nil {
		t.Fatal(err)
	}
	c.at = c.at.Add(5 * time.Minute)
	for i := range 10 {
		if err := c.answer("org", fmt.Sprint(i), 200, ""); err != nil {
			t.Fatal(err)
		}
		c.at = c.at.Add(time.Second)
	}
	var e *Error
	if err := c.answer("org", "x", 200, ""); !errors.As(err, &e) || e.httpStatus() != http.StatusTooManyRequests || e.Retry != 50*time.Second {
		t.Errorf("beyond the budget: %+v", err)
	}
	if !c.has("org", "0") {
		t.Error("an answer that is younger than a minute made room")
	}
	c.at = c.at.Add(e.Retry)
	if err := c.answer("org", "x", 200, ""); err != nil || c.has("org", "0") || !c.has("org", "1") {
		t.Errorf("after Retry-After: %v; the oldest is there: %v, the second: %v", err, c.has("org", "0"), c.has("org", "1"))
	}
	if !c.has("victim", "append") {
		t.Error("another organisation's answer made room")
	}
	c.at = c.at.Add(answerTTL)
	c.evictExpired()
	if c.size != 0 || len(c.orgs) != 0 {
		t.Errorf("%d bytes of %d organisations are kept for ever", c.size, len(c.orgs))
	}
}

// Where all organisations together have too much, the one with most makes room, or whoever
// asks is refused; one that has little never is.
func TestOnceBudgetOfAll(t *testing.T) {
	c := newOnceClock()
	c.maxOrgBytes, c.maxBytes = 8*orgAnswerFloor, 10*orgAnswerFloor
	fill := func(org string, most int64) (err error) {
		for i := 0; err == nil && c.answersOf(org).size < most; i++ {
			err = c.answer(org, fmt.Sprint(i), 200, "")
		}
		return err
	}
	if err := fill("large", 7*orgAnswerFloor); err != nil {
		t.Fatal(err)
	}
	var e *Error
	if err := fill("second", 7*orgAnswerFloor); !errors.As(err, &e) || e.httpStatus() != http.StatusServiceUnavailable || e.Retry == 0 {
		t.Errorf("beyond what all may have: %+v", err)
	}
	if err := fill("small", orgAnswerFloor/2); err != nil {
		t.Errorf("an organisation that has little: %v", err)
	}
	c.at = c.at.Add(guaranteedTTL)
	second := c.answersOf("second").size
	if err := fill("third", 3*orgAnswerFloor); err != nil || c.answersOf("second").size != second {
		t.Errorf("%v; the second largest has %d bytes, and had %d", err, c.answersOf("second").size, second)
	}
}
