package core

import (
	"context"
	"crypto/sha256"
	"maps"
	"sync"
	"time"

	"github.com/volehq/vole/internal/api"
)

// idempotencyCache keeps the answers to requests with an idempotency key, so that a retry is
// answered instead of carried out again. Each organisation has a budget of bytes: its oldest
// answers make room for its new ones and never for those of others.
type idempotencyCache struct {
	maxOrgBytes, maxBytes int64 // bytes of one organisation, and of all
	now                   func() time.Time

	mu   sync.Mutex // guards what follows, and every orgAnswers and cachedAnswer
	orgs map[string]*orgAnswers
	size int64 // bytes of all
}

// orgAnswers is the kept answers of one organisation: a map, and a list in order of completion.
type orgAnswers struct {
	byKey          map[answerKey]*cachedAnswer
	oldest, newest *cachedAnswer // completed answers, in order of completion
	size           int64         // bytes
	peakLen        int           // most entries that byKey ever had
}

// answerKey is a truncated hash of caller and idempotency key.
type answerKey [16]byte

// hashAnswerKey hashes caller and idempotency key; the zero byte keeps the two apart.
func hashAnswerKey(who, key string) answerKey { return shortDigest(who + "\x00" + key) }

// shortDigest returns half of a SHA-256: enough to tell requests apart, at half the memory.
func shortDigest(s string) [16]byte {
	sum := sha256.Sum256([]byte(s))
	return [16]byte(sum[:])
}

// cachedAnswer is the answer to one request, or the place for it while the request runs.
type cachedAnswer struct {
	key            answerKey
	fingerprint    [16]byte       // digest of Request.fingerprint
	pending        *pendingAnswer // nil once the request has ended
	finishedAt     int64          // in Unix nanoseconds
	next           *cachedAnswer  // completed after it
	header         packedHeader   // see packHeader
	body           string
	status         uint16 // 0: no answer to keep
	cancelled      bool   // by cancelRequest
	cancelledEarly bool   // before the request arrived, so there is no fingerprint
}

// pendingAnswer lets others wait for a running request, or cancel it.
type pendingAnswer struct {
	done   chan struct{} // closed when the request has ended
	cancel context.CancelFunc
}

const (
	answerTTL = 10 * time.Minute // if there is room; longer than clients retry
	// guaranteedTTL is how long an answer is kept whatever else happens: clients retry for 15
	// seconds.
	guaranteedTTL = time.Minute
	maxAnswerBody = 64 << 10 // bytes of one

	// answerOverhead is what an answer takes beside its header and body: itself, and its place in
	// a map.
	answerOverhead = 160
	// maxOrgAnswerBytes is the bytes of an organisation's answers, enough for 200,000 in a minute.
	maxOrgAnswerBytes = 48 << 20
	maxAnswerBytes    = 2 * maxOrgAnswerBytes
	// orgAnswerFloor is what an organisation may have however much the others have.
	orgAnswerFloor = 1 << 20
)

// newIdempotencyCache returns an empty cache.
func newIdempotencyCache() *idempotencyCache {
	return &idempotencyCache{maxOrgBytes: maxOrgAnswerBytes, maxBytes: maxAnswerBytes, now: time.Now, orgs: map[string]*orgAnswers{}}
}

// answersOf returns the answers of an organisation, for which it makes an empty set if need be.
// The caller holds mu, here and below.
func (m *idempotencyCache) answersOf(name string) *orgAnswers {
	o := m.orgs[name]
	if o == nil {
		o = &orgAnswers{byKey: map[answerKey]*cachedAnswer{}}
		m.orgs[name] = o
	}
	return o
}

// reserveAnswer makes an entry for a request that begins, or returns an error that says when
// there will be room.
func (m *idempotencyCache) reserveAnswer(org string, k answerKey, cancel context.CancelFunc) (*cachedAnswer, error) {
	o := m.answersOf(org)
	now := m.now()
	if !m.evictUntilRoom(o, now) {
		after := time.Second
		if o.oldest != nil {
			after = max(after, time.Unix(0, o.oldest.finishedAt).Add(guaranteedTTL).Sub(now))
		}
		if o.size+answerOverhead > m.maxOrgBytes {
			return nil, &Error{Code: api.CodeRateLimited, Retry: after,
				Message: "too many changes of the organisation within a minute to keep their answers for retries; slow down"}
		}
		return nil, &Error{Code: api.CodeUnavailable, Retry: after,
			Message: "too many changes within a minute to keep their answers for retries; try again, or use another server"}
	}
	answer := &cachedAnswer{key: k, pending: &pendingAnswer{done: make(chan struct{}), cancel: cancel}}
	o.byKey[k] = answer
	o.peakLen = max(o.peakLen, len(o.byKey))
	m.addSize(o, answerOverhead)
	return answer, nil
}

// addSize counts n bytes toward the organisation and the whole.
func (m *idempotencyCache) addSize(o *orgAnswers, n int64) {
	o.size += n
	m.size += n
}

// evictUntilRoom drops the oldest answers of an organisation that is over its budget, and those
// of the largest organisation if all together are. It never drops answers younger than
// guaranteedTTL, which clients may still ask for. It reports whether there is room now.
func (m *idempotencyCache) evictUntilRoom(o *orgAnswers, now time.Time) bool {
	sure := now.Add(-guaranteedTTL)
	for o.size+answerOverhead > m.maxOrgBytes {
		if !m.evictOldest(o, sure) {
			return false
		}
	}
	for m.size+answerOverhead > m.maxBytes {
		if !m.evictOldest(m.largestOrg(), sure) && !m.evictOldest(o, sure) {
			return o.size < orgAnswerFloor
		}
	}
	return true
}

// largestOrg returns the organisation with the most bytes.
func (m *idempotencyCache) largestOrg() *orgAnswers {
	var most *orgAnswers
	for _, o := range m.orgs {
		if most == nil || o.size > most.size {
			most = o
		}
	}
	return most
}

// evictOldest drops the oldest answer of an organisation if it was completed before that time.
func (m *idempotencyCache) evictOldest(o *orgAnswers, before time.Time) bool {
	answer := o.oldest
	if answer == nil || answer.finishedAt > before.UnixNano() {
		return false
	}
	if o.oldest = answer.next; o.oldest == nil {
		o.newest = nil
	}
	m.removeAnswer(o, answer)
	return true
}

// removeAnswer drops an entry from the map; the caller has taken it out of the list.
func (m *idempotencyCache) removeAnswer(o *orgAnswers, answer *cachedAnswer) {
	delete(o.byKey, answer.key)
	m.addSize(o, -answerOverhead-answer.header.memorySize()-int64(len(answer.body)))
}

// storeAnswer completes an entry and wakes those that wait for it. An answer without a status is
// kept only if it was cancelled. mu must not be held.
func (m *idempotencyCache) storeAnswer(org string, answer *cachedAnswer, kept cachedAnswer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.answersOf(org)
	answer.status, answer.header, answer.body = kept.status, kept.header, kept.body
	close(answer.pending.done)
	answer.pending = nil
	if answer.status == 0 && !answer.cancelled {
		m.removeAnswer(o, answer)
		return
	}
	m.addSize(o, answer.header.memorySize()+int64(len(answer.body)))
	answer.finishedAt = m.now().UnixNano()
	if o.newest == nil {
		o.oldest = answer
	} else {
		o.newest.next = answer
	}
	o.newest = answer
}

// evictExpired drops answers older than answerTTL, empty organisations, and the spare room of
// maps that were much larger: Go's maps do not shrink. mu must not be held.
func (m *idempotencyCache) evictExpired() {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.now().Add(-answerTTL)
	for name, o := range m.orgs {
		for m.evictOldest(o, before) {
		}
		if len(o.byKey) == 0 {
			delete(m.orgs, name)
		} else if o.peakLen > 1024 && len(o.byKey) < o.peakLen/4 {
			few := make(map[answerKey]*cachedAnswer, len(o.byKey))
			maps.Copy(few, o.byKey)
			o.byKey, o.peakLen = few, len(few)
		}
	}
}
