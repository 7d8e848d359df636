package driver

import (
	"errors"
	"math"
	"testing"
)

func TestMetadataBounds(t *testing.T) {
	for _, c := range []struct {
		quota Size
		want  Metadata
	}{
		{0, Metadata{1 << 27, 16 << 30}},
		{1, Metadata{4096, 1 << 20}},
		{MiB, Metadata{5120, 1<<20 + 128<<10}},
		{GiB, Metadata{4096 + 1<<20, 129 << 20}},
		{math.MaxInt64, Metadata{1 << 27, 16 << 30}},
	} {
		if got := MetadataBounds(c.quota); got != c.want {
			t.Errorf("bounds of %v: %+v, want %+v", c.quota, got, c.want)
		}
	}
}

func TestMetadataAdmit(t *testing.T) {
	bound := Metadata{Entries: 10, Bytes: 100}
	for _, c := range []struct {
		used, more Metadata
		ok         bool
	}{
		{Metadata{9, 99}, Metadata{1, 1}, true},
		{Metadata{10, 0}, Metadata{1, 1}, false},
		{Metadata{0, 100}, Metadata{1, 1}, false},
		{Metadata{20, 200}, Metadata{-1, 0}, true},
		{Metadata{20, 50}, Metadata{0, 50}, true},
		{Metadata{20, 50}, Metadata{-1, 51}, false},
		{Metadata{}, Metadata{math.MaxInt64, 1}, false},
		{Metadata{1, math.MaxInt64}, Metadata{1, math.MaxInt64}, false},
	} {
		if err := bound.Admit(c.used, c.more); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrQuota) {
			t.Errorf("%+v beside %+v: %v", c.more, c.used, err)
		}
	}
	if got := (Metadata{1, math.MaxInt64}).Plus(Metadata{2, 5}); got != (Metadata{3, math.MaxInt64}) {
		t.Errorf("sum %+v", got)
	}
}
