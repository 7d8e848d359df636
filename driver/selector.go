package driver

import (
	"slices"
	"strings"
)

// Selector selects volumes by their labels: all its terms must hold. The zero
// Selector selects everything.
type Selector struct {
	terms []term
}

type term struct {
	key, value string
	op         string // "", "=", "!="
}

// ParseSelector parses comma-separated terms: "k" (the label exists), "k=v" (it has
// that value), "k!=v" (it has another value or is not there). Errors match ErrInvalid.
func ParseSelector(s string) (Selector, error) {
	var sel Selector
	if strings.TrimSpace(s) == "" {
		return sel, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		var t term
		if k, v, ok := strings.Cut(part, "!="); ok && !strings.Contains(k, "=") {
			t = term{k, v, "!="}
		} else if k, v, ok := strings.Cut(part, "="); ok {
			t = term{k, v, "="}
		} else {
			t = term{key: part}
		}
		if err := (Labels{t.key: t.value}).Validate(); err != nil {
			return Selector{}, Errorf(ErrInvalid, "selector %q: %v; write k, k=v or k!=v, separated by commas", s, err)
		}
		sel.terms = append(sel.terms, t)
	}
	return sel, nil
}

// Matches reports whether a volume with these labels is selected.
func (s Selector) Matches(l Labels) bool {
	for _, t := range s.terms {
		v, ok := l[t.key]
		switch {
		case t.op == "" && !ok,
			t.op == "=" && (!ok || v != t.value),
			t.op == "!=" && ok && v == t.value:
			return false
		}
	}
	return true
}

// IsZero reports whether s selects everything.
func (s Selector) IsZero() bool { return len(s.terms) == 0 }

// String returns the selector as ParseSelector reads it, terms sorted.
func (s Selector) String() string {
	parts := make([]string, len(s.terms))
	for i, t := range s.terms {
		parts[i] = t.key + t.op + t.value
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}
