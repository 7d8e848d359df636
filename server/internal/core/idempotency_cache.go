package core

import (
	"context"
	"crypto/sha256"
	"maps"
	"sync"
	"time"

	"github.com/volehq/vole/internal/api"
)

// idempotencyCache remembers the answers to requests with an idempotency key, so that a request
// that is sent again is not done again. Each organisation has a budget of bytes: its own
// oldest answers make room for its new ones, and never another's.
type idempotencyCache struct {
	maxOrgBytes, maxBytes int64 // bytes of one organisation, and of all
	now                   func() time.Time

	mu   sync.Mutex // guards what follows, and every orgAnswers and cachedAnswer
	orgs map[string]*orgAnswers
	size int64 // bytes of all
}

// orgAnswers is the answers of one organisation.
type orgAnswers struct {
	byKey          map[answerKey]*cachedAnswer
	oldest, newest *cachedAnswer // those that came, in that order
	size           int64         // bytes
	peakLen        int           // most answers that of had: a map does not shrink
}

// answerKey is a hash of the caller and the idempotency key.
type answerKey [16]byte

func hashAnswerKey(who, key string) answerKey { return shortDigest(who + "\x00" + key) }

func shortDigest(s string) [16]byte {
	sum := sha256.Sum256([]byte(s))
	return [16]byte(sum[:])
}

// cachedAnswer is the answer to a request.
type cachedAnswer struct {
	key            answerKey
	fingerprint    [16]byte       // digest of Request.fingerprint
	pending        *pendingAnswer // nil once the answer came
	finishedAt     int64          // when it came, as Unix time in nanoseconds
	next           *cachedAnswer  // that came after it
	header         *packedHeader  // see packHeader
	body           string
	status         uint16 // 0: there is no answer that is worth keeping
	cancelled      bool   // cancelled, perhaps before the request came
	cancelledEarly bool   // before it came: there is no fingerprint
}

// pendingAnswer is for those who wait for an answer.
type pendingAnswer struct {
	done   chan struct{} // closed when the answer came
	cancel context.CancelFunc
}

const (
	answerTTL = 10 * time.Minute // an answer that there is room for; longer than clients try
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

func newIdempotencyCache() *idempotencyCache {
	return &idempotencyCache{maxOrgBytes: maxOrgAnswerBytes, maxBytes: maxAnswerBytes, now: time.Now, orgs: map[string]*orgAnswers{}}
}

// answersOf returns the answers of an organisation. The caller holds mu, here and below.
func (m *idempotencyCache) answersOf(name string) *orgAnswers {
	o := m.orgs[name]
	if o == nil {
		o = &orgAnswers{byKey: map[answerKey]*cachedAnswer{}}
		m.orgs[name] = o
	}
	return o
}

// reserveAnswer makes room for an answer that is to come, or says when there will be some.
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
				Message: "the organisation has made so many changes within a minute that the server cannot remember their answers; slow down"}
		}
		return nil, &Error{Code: api.CodeUnavailable, Retry: after,
			Message: "so many changes were made within a minute that the server cannot remember their answers; try another, or try again"}
	}
	x := &cachedAnswer{key: k, pending: &pendingAnswer{done: make(chan struct{}), cancel: cancel}}
	o.byKey[k] = x
	o.peakLen = max(o.peakLen, len(o.byKey))
	m.addSize(o, answerOverhead)
	return x, nil
}

func (m *idempotencyCache) addSize(o *orgAnswers, n int64) {
	o.size += n
	m.size += n
}

// evictUntilRoom drops the oldest answers of an organisation that has too much, and those of the
// one that has most where all together have too much. It reports whether that was enough.
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

func (m *idempotencyCache) largestOrg() *orgAnswers {
	var most *orgAnswers
	for _, o := range m.orgs {
		if most == nil || o.size > most.size {
			most = o
		}
	}
	return most
}

// evictOldest drops an organisation's oldest answer if it came before that time.
func (m *idempotencyCache) evictOldest(o *orgAnswers, before time.Time) bool {
	x := o.oldest
	if x == nil || x.finishedAt > before.UnixNano() {
		return false
	}
	if o.oldest = x.next; o.oldest == nil {
		o.newest = nil
	}
	m.removeAnswer(o, x)
	return true
}

func (m *idempotencyCache) removeAnswer(o *orgAnswers, x *cachedAnswer) {
	delete(o.byKey, x.key)
	m.addSize(o, -answerOverhead-x.header.memorySize()-int64(len(x.body)))
}

// storeAnswer keeps an answer that came; one without a status only if it was cancelled. It is
// called without mu.
func (m *idempotencyCache) storeAnswer(org string, x *cachedAnswer, kept cachedAnswer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.answersOf(org)
	x.status, x.header, x.body = kept.status, kept.header, kept.body
	close(x.pending.done)
	x.pending = nil
	if x.status == 0 && !x.cancelled {
		m.removeAnswer(o, x)
		return
	}
	m.addSize(o, x.header.memorySize()+int64(len(x.body)))
	x.finishedAt = m.now().UnixNano()
	if o.newest == nil {
		o.oldest = x
	} else {
		o.newest.next = x
	}
	o.newest = x
}

// evictExpired drops what has been kept long enough. It is called without mu.
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
