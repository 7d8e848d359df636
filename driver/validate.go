package driver

import (
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Bounds of what users may name.
const (
	MaxNameLen       = 128  // bytes of a volume's name
	MaxHolderLen     = 128  // bytes of a holder's name
	MaxHostLen       = 255  // bytes of the name of an attachment holder's host
	MaxLabels        = 64   // labels of one volume
	MaxLabelKeyLen   = 63   // bytes
	MaxLabelValueLen = 255  // bytes
	MaxPathLen       = 4095 // bytes of a path, as PATH_MAX of Linux less its NUL
	MaxElemLen       = 255  // bytes of one element of a path, as NAME_MAX
	MaxXattrLen      = 64 << 10
)

// Labels are a volume's labels, by key.
type Labels map[string]string

// ValidateName checks a volume's name: [A-Za-z0-9][A-Za-z0-9._-]*, 1 to 128 bytes.
// Errors match ErrInvalid.
func ValidateName(name string) error {
	const rule = "a name is 1 to 128 letters, digits, '.', '_' and '-', and starts with a letter or digit"
	if name == "" {
		return Errorf(ErrInvalid, "the volume's name is empty; %s", rule)
	}
	if len(name) > MaxNameLen {
		return Errorf(ErrInvalid, "the volume's name is %d bytes long; %s", len(name), rule)
	}
	for i := range len(name) {
		c := name[i]
		if !isAlnum(c) && (i == 0 || c != '.' && c != '_' && c != '-') {
			return Errorf(ErrInvalid, "volume name %q has %q in place %d; %s", name, name[i:i+1], i+1, rule)
		}
	}
	return nil
}

// IsID reports whether ref has the form of a volume's id, 36 bytes of a UUID.
func IsID(ref string) bool { return len(ref) == 36 && uuid.Validate(ref) == nil }

// isAlnum reports whether c is an ASCII letter or digit.
func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// ValidateHolder checks an attachment holder's name.
func ValidateHolder(holder string) error {
	if holder == "" || len(holder) > MaxHolderLen || !utf8.ValidString(holder) {
		return Errorf(ErrInvalid, "holder %.200q: write 1 to %d bytes of UTF-8", holder, MaxHolderLen)
	}
	if i := strings.IndexFunc(holder, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
		return Errorf(ErrInvalid, "holder %q: only printable characters are allowed", holder)
	}
	return nil
}

// ValidateHost checks the name of an attachment holder's host; "" is that of the backend's
// choice.
func ValidateHost(host string) error {
	if len(host) > MaxHostLen || !utf8.ValidString(host) || strings.ContainsFunc(host, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return Errorf(ErrInvalid, "host %.40q: write at most %d bytes of printable UTF-8", host, MaxHostLen)
	}
	return nil
}

// Validate checks a spec whose Kind is set. Errors match ErrInvalid.
func (s Spec) Validate() error {
	switch s.Kind {
	case KindDir:
		if s.Capacity != 0 {
			return Errorf(ErrInvalid, "a dir volume has no capacity; set a quota, or make a disk volume")
		}
		if s.Quota < 0 {
			return Errorf(ErrInvalid, "quota %d: must be at least 1 byte", s.Quota)
		}
	case KindDisk:
		if s.Quota != 0 {
			return Errorf(ErrInvalid, "a disk volume has no quota; its capacity is its limit")
		}
		if s.Capacity == 0 {
			return Errorf(ErrInvalid, "a disk volume needs a capacity; give the size of its image")
		}
		if s.Capacity < 0 {
			return Errorf(ErrInvalid, "capacity %d: must be positive", s.Capacity)
		}
	default:
		return Errorf(ErrInvalid, "unknown kind %q; use %q or %q", s.Kind, KindDir, KindDisk)
	}
	return s.Labels.Validate()
}

// Validate checks a change. Errors match ErrInvalid.
func (u Update) Validate() error {
	if u.Name != "" {
		if err := ValidateName(u.Name); err != nil {
			return err
		}
	}
	if u.Quota < 0 {
		return Errorf(ErrInvalid, "quota %d: must be at least 1 byte", u.Quota)
	}
	if u.Quota != 0 && u.ClearQuota {
		return Errorf(ErrInvalid, "set a quota or clear it, not both")
	}
	if u.Capacity < 0 {
		return Errorf(ErrInvalid, "capacity %d: must be positive", u.Capacity)
	}
	for _, k := range u.RemoveLabels {
		if err := validateLabelKey(k); err != nil {
			return err
		}
		if _, both := u.SetLabels[k]; both {
			return Errorf(ErrInvalid, "label %q is both set and removed", k)
		}
	}
	return u.SetLabels.Validate()
}

// Validate checks labels: at most 64, keys of 1 to 63 bytes [a-zA-Z0-9._/-], values
// of up to 255 bytes of UTF-8 without control characters. Errors match ErrInvalid.
func (l Labels) Validate() error {
	if len(l) > MaxLabels {
		return Errorf(ErrInvalid, "%d labels; a volume has at most %d", len(l), MaxLabels)
	}
	for _, k := range slices.Sorted(maps.Keys(l)) {
		if err := validateLabelKey(k); err != nil {
			return err
		}
		v := l[k]
		if len(v) > MaxLabelValueLen || !utf8.ValidString(v) {
			return Errorf(ErrInvalid, "label %q: a value is at most %d bytes of UTF-8", k, MaxLabelValueLen)
		}
		if strings.ContainsFunc(v, unicode.IsControl) {
			return Errorf(ErrInvalid, "label %q: a value has no control characters", k)
		}
	}
	return nil
}

// validateLabelKey checks a label's key, whose errors say the rule.
func validateLabelKey(k string) error {
	const rule = "a key is 1 to 63 letters, digits, '.', '_', '/' and '-'"
	if k == "" || len(k) > MaxLabelKeyLen {
		return Errorf(ErrInvalid, "label key %q is %d bytes long; %s", k, len(k), rule)
	}
	for i := range len(k) {
		if c := k[i]; !isAlnum(c) && c != '.' && c != '_' && c != '/' && c != '-' {
			return Errorf(ErrInvalid, "label key %q has %q; %s", k, k[i:i+1], rule)
		}
	}
	return nil
}

// RootedPath gives a path in a volume the leading slash with which messages show it.
func RootedPath(p string) string {
	if p == "." {
		return "/"
	}
	if strings.HasPrefix(p, "/") {
		return p
	}
	return "/" + p
}

// CleanPath brings a path as users write it ("/a//b/", "", ".") into the form that
// drivers take ("a/b", ".", "."). A ".." element is ErrPathEscape wherever it stands,
// because what it means depends on links; other errors match ErrInvalid.
func CleanPath(p string) (string, error) {
	if fs.ValidPath(p) && len(p) <= MaxElemLen && strings.IndexByte(p, 0) < 0 {
		return p, nil // the common case, without allocation
	}
	if len(p) > MaxPathLen {
		return "", Errorf(ErrInvalid, "path is %d bytes long; the most is %d", len(p), MaxPathLen)
	}
	if strings.IndexByte(p, 0) >= 0 {
		return "", Errorf(ErrInvalid, "path %q has a NUL byte", p)
	}
	for e := range strings.SplitSeq(p, "/") {
		if e == ".." {
			return "", Errorf(ErrPathEscape, "path %q has a '..' element; write it without", p)
		}
		if len(e) > MaxElemLen {
			return "", Errorf(ErrInvalid, "path %q has an element of %d bytes; the most is %d", p, len(e), MaxElemLen)
		}
	}
	return path.Clean("./" + strings.TrimLeft(p, "/")), nil
}

// ValidateEntryName checks the name of an entry of a directory where it comes in: from a
// server, a database, an image. Such a name becomes an element of a path, of the host too,
// so it is none that means another place. Errors match ErrCorrupt.
func ValidateEntryName(name string) error {
	switch {
	case name == "":
		return Errorf(ErrCorrupt, "a directory has an entry without a name")
	case name == "." || name == "..":
		return Errorf(ErrCorrupt, "a directory has an entry named %q, which no entry can have", name)
	case len(name) > MaxElemLen:
		return Errorf(ErrCorrupt, "a directory has an entry with a name of %d bytes; the most is %d", len(name), MaxElemLen)
	case strings.ContainsAny(name, "/\x00"):
		return Errorf(ErrCorrupt, "a directory has an entry named %q; no name has '/' or a NUL byte", name)
	}
	return nil
}

// capacityUnit is what capacities are rounded up to, in bytes: the blocks of ext4.
const capacityUnit = 4096

// Fits returns nil when a volume is what s asks for: of that kind, with each limit and
// label that s sets. Otherwise the error matches ErrExists and says what differs.
func (s Spec) Fits(have Info) error {
	differs := func(what string, want, is any) error {
		return Errorf(ErrExists, "the volume is there with another %s: %v, not %v; change the request, or the volume by hand", what, is, want)
	}
	switch {
	case s.Kind != "" && s.Kind != have.Kind:
		return differs("kind", s.Kind, have.Kind)
	case s.Quota != 0 && s.Quota != have.Quota:
		return differs("quota", s.Quota, have.Quota)
	case s.Capacity != 0 && (s.Capacity+capacityUnit-1)/capacityUnit != (have.Capacity+capacityUnit-1)/capacityUnit:
		return differs("capacity", s.Capacity, have.Capacity)
	}
	for _, k := range slices.Sorted(maps.Keys(s.Labels)) {
		if v, ok := have.Labels[k]; !ok || v != s.Labels[k] {
			return differs("label "+k, strconv.Quote(s.Labels[k]), strconv.Quote(v))
		}
	}
	return nil
}
