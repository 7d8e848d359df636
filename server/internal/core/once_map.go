package core

import (
	"context"
	"crypto/sha256"
	"maps"
	"net/http"
	"sync"
	"time"
)

// onceMap remembers the answers to requests with an idempotency key, so that a request
// that is sent again is not done again. Each organisation has a budget of bytes: its own
// oldest answers make room for its new ones, and never another's.
type onceMap struct {
	mostOrg, mostAll int64 // bytes of one organisation, and of all
	now              func() time.Time

	mu   sync.Mutex // guards what follows, and every onceOrg and onceAnswer
	orgs map[string]*onceOrg
	size int64 // bytes of all
}

// onceOrg is the answers of one organisation.
type onceOrg struct {
	of          map[onceKey]*onceAnswer
	first, last *onceAnswer // those that came, in that order
	size        int64       // bytes
	peak        int         // most answers that of had: a map does not shrink
}

// onceKey is a hash of the caller and the idempotency key.
type onceKey [16]byte

func newOnceKey(who, key string) onceKey { return digestOf(who + "\x00" + key) }

func digestOf(s string) [16]byte {
	sum := sha256.Sum256([]byte(s))
	return [16]byte(sum[:])
}

// onceAnswer is the answer to a request.
type onceAnswer struct {
	key    onceKey
	what   [16]byte      // digest of Request.fingerprint
	wait   *onceWait     // nil once the answer came
	at     int64         // when it came, as Unix time in nanoseconds
	next   *onceAnswer   // that came after it
	header *packedHeader // see packHeader
	body   string
	status uint16 // 0: there is no answer that is worth keeping
	ended  bool   // cancelled, perhaps before the request came
	early  bool   // before it came: there is no fingerprint
}

// onceWait is for those who wait for an answer.
type onceWait struct {
	done   chan struct{} // closed when the answer came
	cancel context.CancelFunc
}

const (
	onceKept = 10 * time.Minute // an answer that there is room for; longer than clients try
	// onceSure is how long an answer is kept whatever else happens: clients retry for 15
	// seconds.
	onceSure = time.Minute
	onceBody = 64 << 10 // bytes of one

	// onceBase is what an answer takes beside its header and body: itself, and its place in
	// a map.
	onceBase = 160
	// onceOrgMost is the bytes of an organisation's answers, enough for 200,000 in a minute.
	onceOrgMost = 48 << 20
	onceAllMost = 2 * onceOrgMost
	// onceFloor is what an organisation may have however much the others have.
	onceFloor = 1 << 20
)

func newOnceMap() *onceMap {
	return &onceMap{mostOrg: onceOrgMost, mostAll: onceAllMost, now: time.Now, orgs: map[string]*onceOrg{}}
}

// org returns the answers of an organisation. The caller holds mu, here and below.
func (m *onceMap) org(name string) *onceOrg {
	o := m.orgs[name]
	if o == nil {
		o = &onceOrg{of: map[onceKey]*onceAnswer{}}
		m.orgs[name] = o
	}
	return o
}

// begin makes room for an answer that is to come, or says when there will be some.
func (m *onceMap) begin(org string, k onceKey, cancel context.CancelFunc) (*onceAnswer, error) {
	o := m.org(org)
	now := m.now()
	if !m.makeRoom(o, now) {
		after := time.Second
		if o.first != nil {
			after = max(after, time.Unix(0, o.first.at).Add(onceSure).Sub(now))
		}
		if o.size+onceBase > m.mostOrg {
			return nil, &Error{Status: http.StatusTooManyRequests, Code: "rate_limited", Retry: after,
				Message: "the organisation has made so many changes within a minute that the server cannot remember their answers; slow down"}
		}
		return nil, &Error{Status: http.StatusServiceUnavailable, Code: "unavailable", Retry: after,
			Message: "so many changes were made within a minute that the server cannot remember their answers; try another, or try again"}
	}
	x := &onceAnswer{key: k, wait: &onceWait{done: make(chan struct{}), cancel: cancel}}
	o.of[k] = x
	o.peak = max(o.peak, len(o.of))
	m.count(o, onceBase)
	return x, nil
}

func (m *onceMap) count(o *onceOrg, n int64) {
	o.size += n
	m.size += n
}

// makeRoom drops the oldest answers of an organisation that has too much, and those of the
// one that has most where all together have too much. It reports whether that was enough.
func (m *onceMap) makeRoom(o *onceOrg, now time.Time) bool {
	sure := now.Add(-onceSure)
	for o.size+onceBase > m.mostOrg {
		if !m.dropFirst(o, sure) {
			return false
		}
	}
	for m.size+onceBase > m.mostAll {
		if !m.dropFirst(m.largest(), sure) && !m.dropFirst(o, sure) {
			return o.size < onceFloor
		}
	}
	return true
}

func (m *onceMap) largest() *onceOrg {
	var most *onceOrg
	for _, o := range m.orgs {
		if most == nil || o.size > most.size {
			most = o
		}
	}
	return most
}

// dropFirst drops an organisation's oldest answer if it came before that time.
func (m *onceMap) dropFirst(o *onceOrg, before time.Time) bool {
	x := o.first
	if x == nil || x.at > before.UnixNano() {
		return false
	}
	if o.first = x.next; o.first == nil {
		o.last = nil
	}
	m.remove(o, x)
	return true
}

func (m *onceMap) remove(o *onceOrg, x *onceAnswer) {
	delete(o.of, x.key)
	m.count(o, -onceBase-x.header.size()-int64(len(x.body)))
}

// settle keeps an answer that came; one without a status only if it was cancelled. It is
// called without mu.
func (m *onceMap) settle(org string, x *onceAnswer, kept onceAnswer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.org(org)
	x.status, x.header, x.body = kept.status, kept.header, kept.body
	close(x.wait.done)
	x.wait = nil
	if x.status == 0 && !x.ended {
		m.remove(o, x)
		return
	}
	m.count(o, x.header.size()+int64(len(x.body)))
	x.at = m.now().UnixNano()
	if o.last == nil {
		o.first = x
	} else {
		o.last.next = x
	}
	o.last = x
}

// forget drops what has been kept long enough. It is called without mu.
func (m *onceMap) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.now().Add(-onceKept)
	for name, o := range m.orgs {
		for m.dropFirst(o, before) {
		}
		if len(o.of) == 0 {
			delete(m.orgs, name)
		} else if o.peak > 1024 && len(o.of) < o.peak/4 {
			few := make(map[onceKey]*onceAnswer, len(o.of))
			maps.Copy(few, o.of)
			o.of, o.peak = few, len(few)
		}
	}
}
