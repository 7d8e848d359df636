package transfer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// losses count what a copy could not keep while it went on.
type losses struct {
	items  atomic.Int64 // warned of one by one
	system atomic.Int64 // files whose system attributes were left out, told once at the end
}

// leaveOut says that something of the item at a place is not kept, for the given reason. It
// returns an error where that is not to be: Options.Strict.
func (o *Options) leaveOut(display, what string, reason error) error {
	if o.Strict {
		return fmt.Errorf("%s: %s: %s is not kept: %w", o.opName(), display, what, reason)
	}
	if o.lost != nil {
		o.lost.items.Add(1)
	}
	o.warnf("%s: %s is not kept: %v", display, what, reason)
	return nil
}

// countLostSystemAttrs counts a file that has system attributes, which the target does not get.
func (o *Options) countLostSystemAttrs(it *item) {
	if len(it.system) > 0 && o.lost != nil {
		o.lost.system.Add(1)
	}
}

// reportLostSystemAttrs tells once of all files that lost system attributes.
func (o *Options) reportLostSystemAttrs() error {
	n := o.lost.system.Load()
	if n == 0 {
		return nil
	}
	const why = "capabilities or access lists are not kept (files: %d): disk volumes keep them, copied with -a or made by root"
	if o.Strict {
		return driver.Errorf(vole.ErrUnsupported, "%s: "+why, o.opName(), n)
	}
	o.warnf(why, n)
	return nil
}

// cannotHoldMetadata reports whether an error says that a target has no place for a piece of
// metadata, whatever the rest of the copy does.
func cannotHoldMetadata(err error) bool {
	for _, kind := range []error{vole.ErrUnsupported, vole.ErrInvalid, vole.ErrNoSpace, syscall.E2BIG} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// maxID is the largest user or group id: the next one means "keep" to system calls.
const maxID = 1<<32 - 2

// keepsOwner reports whether owners are kept and the ids of an item are some that it can have,
// and loses them if they are not, with the setuid and setgid bits, which go with the owner. anyone says that the target
// lets this process give files to anyone. display shows the path p in messages.
func (o *Options) keepsOwner(display func(p string) string, p string, it *item, anyone bool) (bool, error) {
	var reason error
	switch {
	case !o.Owner:
		return false, nil
	case it.uid < 0 || it.gid < 0 || int64(it.uid) > maxID || int64(it.gid) > maxID:
		reason = driver.Errorf(vole.ErrInvalid, "%d:%d is out of range, 0 to %d", it.uid, it.gid, int64(maxID))
	case !anyone && !isOwnID(it.uid, it.gid):
		reason = driver.Errorf(vole.ErrPermission, "%d:%d is another user, and only root gives files away", it.uid, it.gid)
	default:
		return true, nil
	}
	it.mode &^= fs.ModeSetuid | fs.ModeSetgid
	return false, o.leaveOut(display(p), "the owner", reason)
}

// isUnmapped reports whether an error of chown(2) says that this user namespace lacks the
// owner, and the options leave out such an owner.
func (o *Options) isUnmapped(err error) bool {
	return o.ignoreUnmapped && errors.Is(err, syscall.EINVAL)
}

// isOwnID reports whether files of this process may have these ids.
func isOwnID(uid, gid int) bool {
	if uid != os.Geteuid() {
		return false
	}
	groups, _ := os.Getgroups()
	return gid == os.Getegid() || slices.Contains(groups, gid)
}

// isUnusualTime reports whether not every file system keeps a time.
func isUnusualTime(t time.Time) bool { return t.Unix() < 0 || t.Unix() >= 1<<31-1 }

// checkKeptTime compares an unusual time with what a file system made of it, which may be the
// nearest one that it can keep.
func (o *Options) checkKeptTime(display string, want time.Time, kept func() (time.Time, error)) error {
	if !isUnusualTime(want) {
		return nil
	}
	got, err := kept()
	if err != nil {
		return err
	}
	if d := want.Sub(got); got.Unix() == want.Unix() && d > -time.Millisecond && d < time.Millisecond {
		return nil
	}
	return o.leaveOut(display, "the time "+want.UTC().Format(time.RFC3339), driver.Errorf(vole.ErrInvalid, "it is kept as %s", got.UTC().Format(time.RFC3339)))
}
