package main

import (
	"testing"
	"time"
)

func TestParseSpan(t *testing.T) {
	const day = 24 * time.Hour
	for s, want := range map[string]time.Duration{
		"30d": 30 * day, "2w": 14 * day, "1d12h": 36 * time.Hour, "1w2d3h4m": 9*day + 3*time.Hour + 4*time.Minute,
		"12h": 12 * time.Hour, "90m": 90 * time.Minute, "0": 0, "0d": 0, "1ms": time.Millisecond, "106751d": 106751 * day,
	} {
		if got, err := parseSpan(s); err != nil || got != want {
			t.Errorf("%q: %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{
		"", "d", "30", "1.5d", "-1d", "-5h", "1d-2h", "1h2d", "1x", "d5", "1dd", "1.d.", "..d", "30 d", "1e3d", "NaNd", "+1d", "∞d", "0x1d",
		"106752d", "99999999999999999999w", "15251w", "106751d25h", "9e999h",
	} {
		if got, err := parseSpan(s); err == nil {
			t.Errorf("%q: %v, want an error", s, got)
		}
	}
}

func FuzzParseSpan(f *testing.F) {
	for _, s := range []string{"30d", "2w", "1.5d12h", "106751d23h", "0", "d", "1e9d", "-1d", "999999999999w", ".d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := parseSpan(s)
		if err != nil {
			return
		}
		if d < 0 {
			t.Fatalf("%q: %d", s, d)
		}
		// What Go reads is read the same.
		if want, err := time.ParseDuration(s); err == nil && want != d {
			t.Errorf("%q: %v, want %v", s, d, want)
		}
	})
}
