package api

import (
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
	case *Server:
		return v.check()
	case *Volume:
		return v.check()
	case *VolumePage:
		return checkPage(v.Next, v.Volumes, (*Volume).check)
	case *EntryPage:
		return checkPage(v.Next, v.Entries, (*Entry).checkListed)
	case *AuditPage:
		return checkPage(v.Next, v.Records, (*AuditRecord).check)
	case *Entry:
		return v.check()
	case *Attachment:
		return v.check()
	case *Attachments:
		return each(v.Attachments, (*Attachment).check)
	case *Session:
		return v.check()
	case *Filesystem:
		return checkToken("file system", v.ID)
	case *Handle:
		return firstError(checkToken("handle", v.ID), v.Entry.check())
	case *Extent:
		return within("extent", v.Start >= 0 && v.Start < v.End)
	case *Written:
		return within("size", v.Size >= 0)
	case *Appended:
		return within("offset", v.Offset >= 0)
	case *Usage:
		return v.check()
	case *XattrNames:
		return v.check()
	case *Findings:
		return each(v.Findings, (*Finding).check)
	case *Key:
		return v.check()
	case *Keys:
		return each(v.Keys, (*Key).check)
	case *NewKey:
		return firstError(v.Key.check(), checkSecret(v.Secret))
	case *Orgs:
		return each(v.Orgs, func(org *string) error { return checkPrintable("organisation", *org) })
	case *Event:
		return v.check()
	case *ErrorBody:
		return v.Error.check()
	case *Outcome:
		return nil
	}
	return fmt.Errorf("%T has no check", answer)
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func each[T any](list []T, check func(*T) error) error {
	for i := range list {
		if err := check(&list[i]); err != nil {
			return err
		}
	}
	return nil
}

func checkPage[T any](next string, list []T, check func(*T) error) error {
	if len(list) > MaxPageLen {
		return fmt.Errorf("a page of %d; the most is %d", len(list), MaxPageLen)
	}
	if len(next) > maxCursorLen || strings.ContainsFunc(next, notVisible) {
		return fmt.Errorf("a cursor that is too long, or has characters that no cursor has")
	}
	return each(list, check)
}

// notVisible reports whether r is no visible character of ASCII.
func notVisible(r rune) bool { return r <= ' ' || r > '~' }

// checkToken checks an id that becomes an element of a URL's path.
func checkToken(what, s string) error {
	ok := s != "" && len(s) <= maxTokenLen && s[0] != '.'
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		ok = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.'
	}
	if !ok {
		return fmt.Errorf("the id %q of a %s", clip(s), what)
	}
	return nil
}

// CheckInstance checks the header in which a server names its process.
func CheckInstance(s string) error { return checkToken("process", s) }

func optional(s string, check func(string) error) error {
	if s == "" {
		return nil
	}
	return check(s)
}

func checkVolumeID(id string) error {
	if !driver.IsID(id) {
		return fmt.Errorf("the id %q of a volume", clip(id))
	}
	return nil
}

func checkPrintable(what, s string) error {
	if s == "" || len(s) > driver.MaxElemLen || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("the name %q of an %s", clip(s), what)
	}
	return nil
}

func checkSecret(s string) error {
	if s == "" || len(s) > maxSecretLen || strings.ContainsFunc(s, notVisible) {
		return fmt.Errorf("a key that has characters that no key has")
	}
	return nil
}

func within(what string, ok bool) error {
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

// clipAll cuts texts for people.
func clipAll(texts ...*string) {
	for _, s := range texts {
		*s = clip(*s)
	}
}

func (s *Server) check() error {
	clipAll(&s.KeyName, &s.Version, &s.Caps.Backend)
	if s.Caps.Backend == "" {
		return nil // it is no Vole server, which the caller says better
	}
	if len(s.Scopes) > MaxPageLen {
		return fmt.Errorf("%d scopes of a key", len(s.Scopes))
	}
	return firstError(optional(s.Org, func(o string) error { return checkPrintable("organisation", o) }),
		optional(s.Key, func(k string) error { return checkToken("key", k) }), optional(s.Instance, CheckInstance))
}

func (v *Volume) check() error {
	if !v.Kind.Valid() {
		return fmt.Errorf("a volume of the unknown kind %q", clip(string(v.Kind)))
	}
	switch driver.State(v.State) {
	case driver.StateCreating, driver.StateReady, driver.StateRemoving:
	default:
		return fmt.Errorf("a volume in the unknown state %q", clip(v.State))
	}
	return firstError(checkVolumeID(v.ID), driver.ValidateName(v.Name), driver.Labels(v.Labels).Validate(), checkTimes(v.Created, v.Updated, v.LastUsed),
		within("amount", v.Quota >= 0 && v.Capacity >= 0 && v.Used >= 0 && v.Generation >= 0))
}

func (e *Entry) check() error {
	switch {
	case !e.Type.Valid():
		return fmt.Errorf("an entry of the unknown type %q", clip(string(e.Type)))
	case e.UID < 0 || e.UID > math.MaxUint32 || e.GID < 0 || e.GID > math.MaxUint32:
		return fmt.Errorf("the owner %d:%d", e.UID, e.GID)
	}
	if _, err := ParseMode(e.Mode); err != nil {
		return fmt.Errorf("the mode %q", clip(e.Mode))
	}
	return firstError(within("amount", e.Size >= 0 && e.Allocated >= 0 && e.Nlink >= 0), checkTimes(e.Atime, e.Mtime, e.Ctime))
}

// checkListed checks an entry of a listing, whose name becomes an element of a path. The
// name of one that was asked for by its path is not used.
func (e *Entry) checkListed() error {
	return firstError(driver.ValidateEntryName(e.Driver().Name), e.check())
}

func (a *Attachment) check() error {
	clipAll(&a.Holder, &a.Host)
	token := func(s string) error { return checkToken("session", s) }
	return firstError(checkToken("attachment", a.ID), optional(a.VolumeID, checkVolumeID), optional(a.Volume, driver.ValidateName),
		optional(a.Session, token), within("amount", a.Pid >= 0), checkTimes(a.Since, a.Started))
}

func (s *Session) check() error {
	if s.LeaseSeconds < minLease.Seconds() {
		return fmt.Errorf("a lease of %v seconds", s.LeaseSeconds)
	}
	s.LeaseSeconds = min(s.LeaseSeconds, maxLease.Seconds())
	return checkToken("session", s.ID)
}

func (u *Usage) check() error {
	u.Free = max(u.Free, 0) // of a volume over its quota
	return within("amount", u.Total >= 0 && u.Used >= 0 && u.Files >= -1 && u.Allocated >= 0)
}

func (x *XattrNames) check() error {
	sum := 0
	for _, n := range x.Names {
		if sum += len(n); n == "" || len(n) > driver.MaxElemLen || strings.IndexByte(n, 0) >= 0 || sum > maxXattrNames {
			return fmt.Errorf("the name %q of an attribute, or too many of them", clip(n))
		}
	}
	return nil
}

func (f *Finding) check() error {
	clipAll(&f.Code, &f.Volume, &f.Path, &f.Detail)
	return nil
}

func (k *Key) check() error {
	clipAll(&k.Name, &k.CreatedBy, &k.Format)
	return firstError(checkToken("key", k.ID), optional(k.Org, func(o string) error { return checkPrintable("organisation", o) }),
		each(k.Volumes, func(id *string) error { return checkVolumeID(*id) }),
		each(k.Scopes, func(s *Scope) error { return checkToken("scope", string(*s)) }), checkTimes(k.Created, k.Expires, k.LastUsed, k.Revoked))
}

func (r *AuditRecord) check() error {
	clipAll(&r.Action, &r.Addr, &r.Detail, &r.Key, &r.KeyName, &r.Path, &r.RequestID, &r.Volume, &r.VolumeName, &r.Org)
	return checkTimes(r.At)
}

func (e *Event) check() error {
	clipAll(&e.Type)
	return firstError(optional(e.VolumeID, checkVolumeID), optional(e.Volume, driver.ValidateName), checkTimes(e.At))
}

// check makes the texts of an error fit for messages. A code that is none is removed, as
// if the answer were not of the API.
func (e *Error) check() error {
	if checkToken("code", e.Code) != nil {
		e.Code = ""
	}
	e.Message = PlainText(e.Message)
	if checkToken("request", e.RequestID) != nil {
		e.RequestID = ""
	}
	return nil
}
