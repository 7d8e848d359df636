package main

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

var (
	errNoSpan      = errors.New("write a time such as 30d, 12h or 2w")
	errSpanTooLong = errors.New("that is too long")
)

// spanUnits are those that time.ParseDuration lacks: a day has 24 hours here.
var spanUnits = map[byte]time.Duration{'d': 24 * time.Hour, 'w': 7 * 24 * time.Hour}

// parseSpan parses a length of time, 0 or more: whole weeks and days, and what
// time.ParseDuration takes, as in 30d, 1w12h and 1.5h.
func parseSpan(s string) (total time.Duration, err error) {
	if s == "" {
		return 0, errNoSpan
	}
	for s != "" {
		var part time.Duration
		at := len(s) - len(strings.TrimLeft(s, "0123456789"))
		if at < len(s) && spanUnits[s[at]] != 0 {
			part, err = formatSpan(s[:at], spanUnits[s[at]])
			s = s[at+1:]
		} else {
			part, err = time.ParseDuration(s)
			s = ""
		}
		switch {
		case err == errSpanTooLong:
			return 0, err
		case err != nil || part < 0:
			return 0, errNoSpan
		case part > math.MaxInt64-total:
			return 0, errSpanTooLong
		}
		total += part
	}
	return total, nil
}

// formatSpan is a number, of digits alone, of units.
func formatSpan(number string, unit time.Duration) (time.Duration, error) {
	n, err := strconv.ParseInt(number, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange) || n > int64(math.MaxInt64/unit):
		return 0, errSpanTooLong
	case err != nil:
		return 0, errNoSpan
	}
	return time.Duration(n) * unit, nil
}
