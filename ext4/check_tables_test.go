package ext4

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
)

// Claims in lists of runs and in bitmaps are those that a plain map has.
func TestClaims(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		c := &checker{ctx: context.Background(), memoryBudget: checkBudget}
		m, plain := newBlockClaims(c, 1024), map[uint64]bool{}
		for range 400 {
			at, n := r.Uint64N(5000), 1+r.Uint64N(1+r.Uint64N(40))
			if r.IntN(100) == 0 {
				n = 2000
			}
			want := uint64(0)
			twice := false
			for k := at; k < at+n; k++ {
				if plain[k] && !twice {
					want, twice = k, true
				}
				plain[k] = true
			}
			if got, ok := m.claimRange(at, n); ok != twice || got != want {
				t.Fatalf("add(%d, %d) is %d, %t, want %d, %t", at, n, got, ok, want, twice)
			}
		}
		bits := make([]byte, 128)
		for at := range uint64(7000) {
			if m.isClaimed(at) != plain[at] {
				t.Fatalf("has(%d) is %t", at, !plain[at])
			}
			if at%1024 == 0 {
				clear(bits)
				m.copyToBitmap(uint32(at/1024), bits)
			}
			if testBit(bits, at%1024) != plain[at] {
				t.Fatalf("bit %d is %t", at, !plain[at])
			}
		}
	}
}

// A check takes no more memory for its tables than it is allowed.
func TestCheckBudget(t *testing.T) {
	c := &checker{ctx: context.Background(), memoryBudget: 1 << 20}
	m := newBlockClaims(c, defaultPer)
	for k := uint64(0); c.err == nil && k < 1<<24; k += 2 {
		m.claimRange(k, 1)
	}
	if !errors.Is(c.err, ErrUnsupported) || len(m.groups) > 300 {
		t.Errorf("%d groups in 1 MiB: %v", len(m.groups), c.err)
	}
}
