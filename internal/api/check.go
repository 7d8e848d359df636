package api

import (
	"cmp"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"

	"github.com/volehq/vole/driver"
)

// Bounds of a session's lease.
const (
	minLease = 10 * time.Millisecond
	maxLease = 24 * time.Hour
)

// Check checks an answer of a server, a pointer to one of this package's types: ids are
// tokens, names obey the rules for names, numbers are in their ranges. Texts for people
// that are too long it cuts. A type that it does not know is an error, so that none is
// forgotten.
func Check(answer any) error {
	switch v := answer.(type) {
	case interface{ checkFields() error }:
		return v.checkFields()
	case *VolumePage:
		return checkPage(v.Next, v.Volumes, (*Volume).checkFields)
	case *EntryPage:
		return checkPage(v.Next, v.Entries, (*Entry).checkListedEntry)
	case *AuditPage:
		return checkPage(v.Next, v.Records, (*AuditRecord).checkFields)
	case *Attachments:
		return checkEach(v.Attachments, (*Attachment).checkFields)
	case *Filesystem:
		return checkToken("file system", v.ID)
	case *Handle:
		return cmp.Or(checkToken("handle", v.ID), v.Entry.checkFields())
	case *Extent:
		return checkInRange("extent", v.Start >= 0 && v.Start < v.End)
	case *Written:
		return checkInRange("size", v.Size >= 0)
	case *Appended:
		return checkInRange("offset", v.Offset >= 0)
	case *Findings:
		return checkEach(v.Findings, (*Finding).checkFields)
	case *Keys:
		return checkEach(v.Keys, (*Key).checkFields)
	case *NewKey:
		return cmp.Or(v.Key.checkFields(), checkSecret(v.Secret))
	case *Orgs:
		return checkEach(v.Orgs, func(org *string) error { return checkPrintable("organisation", *org) })
	case *ErrorBody:
		return v.Error.checkFields()
	case *Outcome:
		return nil
	}
	return fmt.Errorf("%T has no check", answer)
}

// checkEach checks the elements of a list up to the first error.
func checkEach[T any](list []T, check func(*T) error) error {
	for i := range list {
		if err := check(&list[i]); err != nil {
			return err
		}
	}
	return nil
}

// checkPage checks a page of a listing and the cursor of the next one.
func checkPage[T any](next string, list []T, check func(*T) error) error {
	if len(list) > MaxPageLen {
		return fmt.Errorf("a page of %d; the most is %d", len(list), MaxPageLen)
	}
	if len(next) > maxCursorLen || strings.ContainsFunc(next, isNotVisibleASCII) {
		return fmt.Errorf("a cursor that is too long, or has characters that no cursor has")
	}
	return checkEach(list, check)
}

// isNotVisibleASCII reports whether r is a blank, a control character or not ASCII.
func isNotVisibleASCII(r rune) bool { return r <= ' ' || r > '~' }

// checkToken checks an id that becomes an element of a URL's path.
func checkToken(what, s string) error {
	ok := s != "" && len(s) <= maxTokenLen && s[0] != '.'
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		ok = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.'
	}
	if !ok {
		return fmt.Errorf("the id %q of a %s", clipText(s), what)
	}
	return nil
}

// CheckInstance checks the header in which a server names its process.
func CheckInstance(s string) error { return checkToken("process", s) }

// checkOptional checks s unless it is empty.
func checkOptional(s string, check func(string) error) error {
	if s == "" {
		return nil
	}
	return check(s)
}

// checkVolumeID checks the id of a volume, which becomes an element of a URL's path.
func checkVolumeID(id string) error {
	if !driver.IsID(id) {
		return fmt.Errorf("the id %q of a volume", clipText(id))
	}
	return nil
}

// checkPrintable checks a name that messages show.
func checkPrintable(what, s string) error {
	if s == "" || len(s) > driver.MaxElemLen || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("the name %q of an %s", clipText(s), what)
	}
	return nil
}

// checkSecret checks a key, which becomes a header.
func checkSecret(s string) error {
	if s == "" || len(s) > maxSecretLen || strings.ContainsFunc(s, isNotVisibleASCII) {
		return fmt.Errorf("a key that has characters that no key has")
	}
	return nil
}

// checkInRange returns an error about what, a noun with "an", unless ok.
func checkInRange(what string, ok bool) error {
	if !ok {
		return fmt.Errorf("an %s that cannot be", what)
	}
	return nil
}

// checkTimes refuses times that cannot be written again in UTC.
func checkTimes(times ...time.Time) error {
	for _, t := range times {
		if y := t.UTC().Year(); y < 1 || y > 9999 {
			return fmt.Errorf("a time of the year %d", y)
		}
	}
	return nil
}

// clipTexts cuts texts for people.
func clipTexts(texts ...*string) {
	for _, s := range texts {
		*s = clipText(*s)
	}
}

func (s *Server) checkFields() error {
	clipTexts(&s.KeyName, &s.Version, &s.Caps.Backend)
	if s.Caps.Backend == "" {
		return nil // not a Vole server; the caller has a better message for that
	}
	if len(s.Scopes) > MaxPageLen {
		return fmt.Errorf("%d scopes of a key", len(s.Scopes))
	}
	return cmp.Or(checkOptional(s.Org, func(o string) error { return checkPrintable("organisation", o) }),
		checkOptional(s.Key, func(k string) error { return checkToken("key", k) }), checkOptional(s.Instance, CheckInstance))
}

func (v *Volume) checkFields() error {
	if !v.Kind.Valid() {
		return fmt.Errorf("a volume of the unknown kind %q", clipText(string(v.Kind)))
	}
	switch driver.State(v.State) {
	case driver.StateCreating, driver.StateReady, driver.StateRemoving:
	default:
		return fmt.Errorf("a volume in the unknown state %q", clipText(v.State))
	}
	return cmp.Or(checkVolumeID(v.ID), driver.ValidateName(v.Name), driver.Labels(v.Labels).Validate(), checkTimes(v.Created, v.Updated, v.LastUsed),
		checkInRange("amount", v.Quota >= 0 && v.Capacity >= 0 && v.Used >= 0 && v.Generation >= 0))
}

func (e *Entry) checkFields() error {
	switch {
	case !e.Type.Valid():
		return fmt.Errorf("an entry of the unknown type %q", clipText(string(e.Type)))
	case e.UID < 0 || e.UID > math.MaxUint32 || e.GID < 0 || e.GID > math.MaxUint32:
		return fmt.Errorf("the owner %d:%d", e.UID, e.GID)
	}
	if _, err := ParseMode(e.Mode); err != nil {
		return fmt.Errorf("the mode %q", clipText(e.Mode))
	}
	return cmp.Or(checkInRange("amount", e.Size >= 0 && e.Allocated >= 0 && e.Nlink >= 0), checkTimes(e.Atime, e.Mtime, e.Ctime))
}

// checkListedEntry checks an entry of a listing, whose name becomes an element of a path. That of
// a single entry is not used: the caller knows it from the path.
func (e *Entry) checkListedEntry() error {
	return cmp.Or(driver.ValidateEntryName(e.Driver().Name), e.checkFields())
}

func (a *Attachment) checkFields() error {
	clipTexts(&a.Holder, &a.Host)
	token := func(s string) error { return checkToken("session", s) }
	return cmp.Or(checkToken("attachment", a.ID), checkOptional(a.VolumeID, checkVolumeID), checkOptional(a.Volume, driver.ValidateName),
		checkOptional(a.Session, token), checkInRange("amount", a.Pid >= 0), checkTimes(a.Since, a.Started))
}

func (s *Session) checkFields() error {
	if s.LeaseSeconds < minLease.Seconds() {
		return fmt.Errorf("a lease of %v seconds", s.LeaseSeconds)
	}
	s.LeaseSeconds = min(s.LeaseSeconds, maxLease.Seconds())
	return checkToken("session", s.ID)
}

func (u *Usage) checkFields() error {
	u.Free = max(u.Free, 0) // negative for a volume over its quota
	return checkInRange("amount", u.Total >= 0 && u.Used >= 0 && u.Files >= -1 && u.Allocated >= 0)
}

func (x *XattrNames) checkFields() error {
	sum := 0
	for _, n := range x.Names {
		if sum += len(n); n == "" || len(n) > driver.MaxElemLen || strings.IndexByte(n, 0) >= 0 || sum > maxXattrNames {
			return fmt.Errorf("the name %q of an attribute, or too many of them", clipText(n))
		}
	}
	return nil
}

func (f *Finding) checkFields() error {
	clipTexts(&f.Code, &f.Volume, &f.Path, &f.Detail)
	return nil
}

func (k *Key) checkFields() error {
	clipTexts(&k.Name, &k.CreatedBy, &k.Format)
	return cmp.Or(checkToken("key", k.ID), checkOptional(k.Org, func(o string) error { return checkPrintable("organisation", o) }),
		checkEach(k.Volumes, func(id *string) error { return checkVolumeID(*id) }),
		checkEach(k.Scopes, func(s *Scope) error { return checkToken("scope", string(*s)) }), checkTimes(k.Created, k.Expires, k.LastUsed, k.Revoked))
}

func (r *AuditRecord) checkFields() error {
	clipTexts(&r.Action, &r.Addr, &r.Detail, &r.Key, &r.KeyName, &r.Path, &r.RequestID, &r.Volume, &r.VolumeName, &r.Org)
	return checkTimes(r.At)
}

func (e *Event) checkFields() error {
	clipTexts(&e.Type)
	return cmp.Or(checkOptional(e.VolumeID, checkVolumeID), checkOptional(e.Volume, driver.ValidateName), checkTimes(e.At))
}

// checkFields makes the texts of an error fit for messages. A code that is none is removed, as
// if the answer were not of the API.
func (e *Error) checkFields() error {
	if checkToken("code", e.Code) != nil {
		e.Code = ""
	}
	e.Message = PlainText(e.Message)
	if checkToken("request", e.RequestID) != nil {
		e.RequestID = ""
	}
	return nil
}
