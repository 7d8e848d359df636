package budget

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

const shortWait = 20 * time.Millisecond

func refused(t *testing.T, what string, err error, own bool) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Own != own {
		t.Errorf("%s: %v (%+v)", what, err, e)
	}
}

func acquire(t *testing.T, s *Share, c Class, n int64) {
	t.Helper()
	if err := s.Acquire(t.Context(), c, n); err != nil {
		t.Fatal(err)
	}
}

// A share is bounded, and all together are; the larger what is asked for, the less of it
// may be used.
func TestBounds(t *testing.T) {
	b := New(1600, 800, shortWait)
	one, two, three := b.Share("one"), b.Share("two"), b.Share("three")
	acquire(t, one, Buffer, 500)
	refused(t, "more than a share's buffers", one.Acquire(t.Context(), Buffer, 1), true)
	acquire(t, one, Stream, 200)
	refused(t, "more than a share's streams", one.Acquire(t.Context(), Stream, 1), true)
	acquire(t, one, Small, 100)
	refused(t, "more than a share", one.Acquire(t.Context(), Small, 1), true)
	acquire(t, two, Small, 800)
	acquire(t, three, Small, b.shareFloor()) // however much the others have
	refused(t, "more than all", three.Acquire(t.Context(), Small, 1), false)
	one.Release(800)
	two.Release(800)
	acquire(t, three, Stream, 300)
	if got, err := three.UpTo(t.Context(), Buffer, 10, 400); err != nil || got != 100 {
		t.Errorf("what is left is not 100: %d, %v", got, err)
	}
	refused(t, "what never fits", one.Acquire(t.Context(), Small, 801), true)
	three.Release(400 + b.shareFloor())
	if b.Used() != 0 {
		t.Errorf("%d bytes of nothing", b.Used())
	}
}

// Those who wait are served in turn: one share after the other, each in order, and whoever
// asks for little does not overtake who waits for much.
func TestTurns(t *testing.T) {
	b := New(100, 100, time.Minute)
	many, few := b.Share("many"), b.Share("few")
	acquire(t, many, Small, 100)
	var mu sync.Mutex
	var order []string
	var wg sync.WaitGroup
	wait := func(s *Share, name string, n int64) {
		b.mu.Lock()
		before := len(s.queue[Small])
		b.mu.Unlock()
		wg.Go(func() {
			if err := s.Acquire(context.Background(), Small, n); err != nil {
				t.Error(err)
			}
			mu.Lock()
			order = append(order, name)
			mu.Unlock()
			s.Release(n)
		})
		for {
			b.mu.Lock()
			there := len(s.queue[Small]) > before
			b.mu.Unlock()
			if there {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
	wait(many, "many 1", 60)
	wait(many, "many 2", 60)
	wait(many, "many 3", 60)
	wait(few, "few 1", 60)
	many.Release(40) // not enough for the first
	if few.Try(Small, 10) {
		t.Error("one that asks for little overtook those who wait")
	}
	many.Release(60)
	wg.Wait()
	want := []string{"many 1", "few 1", "many 2", "many 3"}
	for i := range want {
		if order[i] != want[i] {
			t.Errorf("served in the order %q, not %q", order, want)
			break
		}
	}
}

// Giving up lets those behind go on, and what was granted meanwhile is not lost.
func TestGiveUp(t *testing.T) {
	b := New(100, 100, time.Minute)
	s := b.Share("org")
	acquire(t, s, Small, 50)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Acquire(ctx, Small, 90) }()
	for len(waiting(b, s)) < 1 {
		time.Sleep(time.Millisecond)
	}
	go func() { ended <- s.Acquire(t.Context(), Small, 50) }()
	for len(waiting(b, s)) < 2 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	for range 2 {
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	if b.Used() != 100 {
		t.Errorf("%d bytes are used", b.Used())
	}
}

func waiting(b *Budget, s *Share) []*waiter {
	b.mu.Lock()
	defer b.mu.Unlock()
	return s.queue[Small]
}

// Nothing is lost or used twice when many wait, give up and release at once.
func TestRandom(t *testing.T) {
	b := New(1000, 600, time.Millisecond)
	names := []string{"a", "b", "c"}
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			s := b.Share(names[i%3])
			for range 200 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.IntN(2000))*time.Microsecond)
				n, err := s.UpTo(ctx, Class(r.IntN(classCount)), 1+r.Int64N(50), 1+r.Int64N(300))
				if used := b.Used(); used > 1000+3*b.shareFloor() {
					t.Errorf("%d bytes are used", used)
				}
				if err == nil {
					s.Release(n)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if b.Used() != 0 {
		t.Errorf("%d bytes of nothing", b.Used())
	}
	for c := range Class(classCount) {
		if len(b.turns[c]) != 0 {
			t.Errorf("shares wait for nothing: %d", len(b.turns[c]))
		}
	}
}
