package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
	"testing"
)

// TestClasses holds the table of translations together: every kind of error has a
// code of its own, and comes back from its errno.
func TestClasses(t *testing.T) {
	codes := map[string]bool{}
	for _, c := range classes {
		if codes[c.Code] {
			t.Errorf("code %s stands for two kinds of error", c.Code)
		}
		codes[c.Code] = true
		if got := Classify(&Error{Op: "x", Err: Errorf(c.Err, "some text")}); got.Code != c.Code {
			t.Errorf("%v is classified as %s, not %s", c.Err, got.Code, c.Code)
		}
		if c.HTTP < 400 || c.HTTP > 599 || c.Exit == ExitOK || c.Errno == 0 {
			t.Errorf("%s: %+v says success somewhere", c.Code, c)
		}
	}
	for e, want := range map[syscall.Errno]error{
		syscall.ENOENT: ErrNotExist, syscall.EEXIST: ErrExists, syscall.ENOSPC: ErrNoSpace, syscall.EDQUOT: ErrQuota,
		syscall.ENOTDIR: ErrNotDir, syscall.EISDIR: ErrIsDir, syscall.ENOTEMPTY: ErrNotEmpty, syscall.ELOOP: ErrLoop,
		syscall.EACCES: ErrPermission, syscall.EPERM: ErrPermission, syscall.EROFS: ErrReadOnly, syscall.EINVAL: ErrInvalid,
		syscall.ENAMETOOLONG: ErrInvalid, syscall.EOPNOTSUPP: ErrUnsupported, syscall.EBUSY: ErrInUse, syscall.EXDEV: ErrPathEscape,
		errNoXattr: ErrNoXattr,
		// These say nothing about a volume, whatever the table maps onto them.
		syscall.EIO: syscall.EIO, syscall.ESTALE: syscall.ESTALE, syscall.EINTR: syscall.EINTR, syscall.ENODEV: syscall.ENODEV,
	} {
		if got := FromErrno(e); got != want {
			t.Errorf("%v is %v, want %v", e, got, want)
		}
	}
}

func TestClassifyOrder(t *testing.T) {
	for err, want := range map[error]string{
		io.ErrUnexpectedEOF:       "internal",
		fs.ErrNotExist:            "file_not_found",
		ErrNotFound:               "volume_not_found",
		ErrNoSuch:                 "not_found",
		context.Canceled:          "canceled",
		errors.ErrUnsupported:     "unsupported",
		fmt.Errorf("%w", ErrLoop): "too_many_links",

		&fs.PathError{Op: "mkdir", Path: "/ro", Err: syscall.EROFS}:    "read_only",
		&fs.PathError{Op: "write", Path: "/full", Err: syscall.ENOSPC}: "no_space",
		&fs.PathError{Op: "write", Path: "/bad", Err: syscall.EIO}:     "internal",
	} {
		if got := Classify(err).Code; got != want {
			t.Errorf("%v is %s, want %s", err, got, want)
		}
	}
}

func TestErrorText(t *testing.T) {
	for want, e := range map[string]*Error{
		"list: in use":          {Op: "list", Err: ErrInUse},
		"create v: in use":      {Op: "create", Volume: "v", Err: ErrInUse},
		"write v:/a/b: in use":  {Op: "write", Volume: "v", Path: "a/b", Err: ErrInUse},
		"open /home/x: in use":  {Op: "open", Path: "/home/x", Err: ErrInUse},
		"create v: do it again": {Op: "create", Volume: "v", Err: Errorf(ErrInUse, "do it %s", "again")},
	} {
		if e.Error() != want || !errors.Is(e, ErrInUse) {
			t.Errorf("%q, want %q", e.Error(), want)
		}
	}
}
