package driver

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"testing"
)

func TestParseSize(t *testing.T) {
	for s, want := range map[string]Size{
		"0": 0, "1": 1, "4096": 4096, "512M": 512 * MiB, "1.5G": 1536 * MiB, "20GiB": 20 * GiB, "1.5 gib": 1536 * MiB,
		"3k": 3 * KiB, "2T": 2 * TiB, "7B": 7, ".5K": 512, "5.K": 5 * KiB, " 1M ": MiB,
		"9223372036854775807": math.MaxInt64, "0.001953125K": 2,
	} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{
		"", "K", "abc", "-1", "+1", "1e3", "1_000", "0x10", "1/2", "1.2.3", "10GB", "5mb", "1P", "1 2", "9223372036854775808",
		"8388608T", "1.5", "0.3K", "NaN", "Inf", "１", strings.Repeat("9", 10000), strings.Repeat("0", 40) + "1",
	} {
		if got, err := ParseSize(s); !errors.Is(err, ErrInvalid) {
			t.Errorf("ParseSize(%q) = %d, %v; want ErrInvalid", s, got, err)
		}
	}
	if _, err := ParseSize("20GB"); err == nil || !strings.Contains(err.Error(), "GiB") {
		t.Errorf("the error for an ambiguous unit says no way out: %v", err)
	}
}

func TestSizeString(t *testing.T) {
	for s, want := range map[Size][2]string{
		0: {"0B", "0B"}, 1000: {"1000B", "1000B"}, 1024: {"1KiB", "1KiB"}, 1536 * MiB: {"1536MiB", "1.5GiB"},
		20 * GiB: {"20GiB", "20GiB"}, 3 * TiB: {"3TiB", "3TiB"}, -MiB: {"-1MiB", "-1MiB"}, 1234567: {"1234567B", "1.18MiB"},
		1023: {"1023B", "1023B"}, 999 * KiB: {"999KiB", "999KiB"}, 1000 * KiB: {"1000KiB", "1000KiB"}, 1010*KiB + 1: {"1034241B", "1010KiB"},
		1023 * MiB: {"1023MiB", "1023MiB"}, MiB - 1: {"1048575B", "1MiB"}, -(MiB - 1): {"-1048575B", "-1MiB"}, MiB - 513: {"1048063B", "1023KiB"},
		GiB - MiB/2: {"1048064KiB", "1GiB"}, 999*MiB + 600*KiB: {"1023576KiB", "1000MiB"}, 1010 * TiB: {"1010TiB", "1010TiB"},
		math.MaxInt64: {"9223372036854775807B", "8388608TiB"}, math.MinInt64: {"-8388608TiB", "-8388608TiB"},
	} {
		if s.String() != want[0] || s.Human() != want[1] {
			t.Errorf("%d: %q, %q; want %q", int64(s), s.String(), s.Human(), want)
		}
	}
}

// What is shown for people is within half a percent, and has no exponent.
func TestHumanSizeIsNear(t *testing.T) {
	for bits := range 52 {
		for _, n := range []Size{1<<bits - 1, 1 << bits, 1<<bits + 1, 3 << bits >> 2, 1000 << bits >> 10, 1<<bits + 1<<bits>>5} {
			shown := n.Human()
			i := strings.IndexAny(shown, "BKMGT")
			value, err := strconv.ParseFloat(shown[:i], 64)
			unit, uerr := ParseSize("1" + shown[i:])
			if err != nil || uerr != nil || strings.Contains(shown, "e") || math.Abs(value*float64(unit)-float64(n)) > float64(n)*0.005 || value >= 1024 && unit < TiB {
				t.Errorf("%d is shown as %s", int64(n), shown)
			}
		}
	}
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"512M", "1.5G", "20GiB", "0", ".", "1e9", "9223372036854775807", "20GB", "0.0009765625K"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseSize(s)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("%q: %v is not ErrInvalid", s, err)
			}
			return
		}
		if n < 0 {
			t.Fatalf("%q is %d", s, n)
		}
		if again, err := ParseSize(n.String()); err != nil || again != n {
			t.Fatalf("%q is %d, written %s, read back %d, %v", s, n, n, again, err)
		}
	})
}
