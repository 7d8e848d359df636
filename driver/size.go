package driver

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// Size is a number of bytes.
type Size int64

const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
)

var units = []struct {
	name string
	size Size
}{{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}}

// ParseSize parses a size such as "4096", "512M", "1.5G" or "20GiB". K, M, G and T,
// alone or with "iB", are powers of 1024, in either case. "GB" and the like are
// refused, because half of the world reads them as powers of 1000. A fraction must
// come to a whole number of bytes. Errors match ErrInvalid.
func ParseSize(s string) (Size, error) {
	num := strings.TrimSpace(s)
	mult := Size(1)
	i := strings.LastIndexAny(num, "0123456789.") + 1
	suffix := strings.TrimSpace(num[i:])
	num = num[:i]
	switch strings.ToLower(suffix) {
	case "", "b":
	case "k", "kib":
		mult = KiB
	case "m", "mib":
		mult = MiB
	case "g", "gib":
		mult = GiB
	case "t", "tib":
		mult = TiB
	case "kb", "mb", "gb", "tb":
		unit := strings.ToUpper(suffix[:1])
		return 0, Errorf(ErrInvalid, "size %q: %s may mean powers of 1000 or 1024; write %siB", s, suffix, unit)
	default:
		return 0, Errorf(ErrInvalid, "size %q: unknown unit %q; use K, M, G or T", s, suffix)
	}
	// A bounded plain decimal only: big.Rat also takes exponents, which could ask
	// for gigabytes of digits.
	if num == "" || len(num) > 32 || strings.Trim(num, "0123456789.") != "" || strings.Count(num, ".") > 1 || num == "." {
		return 0, Errorf(ErrInvalid, "size %q: not a number of bytes; write for example 512M or 1.5GiB", s)
	}
	r, ok := new(big.Rat).SetString(num)
	if !ok {
		return 0, Errorf(ErrInvalid, "size %q: not a number of bytes; write for example 512M or 1.5GiB", s)
	}
	r.Mul(r, new(big.Rat).SetInt64(int64(mult)))
	if !r.IsInt() {
		return 0, Errorf(ErrInvalid, "size %q: not a whole number of bytes", s)
	}
	if !r.Num().IsInt64() {
		return 0, Errorf(ErrInvalid, "size %q: larger than %d bytes", s, int64(math.MaxInt64))
	}
	return Size(r.Num().Int64()), nil
}

// String returns the size exactly, in the largest unit that divides it: "20GiB",
// "1536MiB", "1000B". ParseSize reads it back.
func (s Size) String() string {
	for _, u := range units {
		if s != 0 && s%u.size == 0 {
			return strconv.FormatInt(int64(s/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// Human returns the size for people, rounded to three digits, or to four between 1000 and
// 1023 of a unit: "1.46GiB", "1010KiB".
func (s Size) Human() string {
	for _, u := range units {
		n := float64(s) / float64(u.size)
		switch most := math.Abs(n); {
		case most >= 999.5: // of which three digits would make 1e+03
			return fmt.Sprintf("%.0f", n) + u.name
		case most >= 1-1.0/2048: // less than that, and it rounds to less than 1024 of the next unit
			return fmt.Sprintf("%.3g", n) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}
