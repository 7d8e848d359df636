// Package blob stores immutable objects: in a directory, or in a bucket of any service
// that speaks S3.
//
// An object is a run of bytes under a key such as "o/<org>/b/<xx>/<id>". It is written
// once, whole, and never changes; so it can be read in any order, by anyone, and a
// reader that failed half way goes on where it was. Both kinds of store keep the same
// contract, and one suite of tests holds them to it.
//
// A key is a path as of [io/fs.ValidPath], of up to 1024 bytes of printable UTF-8. No
// key is a folder of another, and none begins with "tmp/", where a directory keeps what
// is being written.
//
// A call that returned nil is durable. A call that stores and failed has stored nothing,
// unless its error matches [ErrUncertain]: then the object may be there now, or may yet
// appear, because a request whose answer never came can still be under way. Putting the same
// bytes again leads to one of the two certain states. A caller that gives up must record the
// key, and delete it some time later.
//
// Errors match the sentinels of driver: [io/fs.ErrNotExist] for a missing object,
// ErrExists, ErrCorrupt, ErrPermission, ErrNoSpace, ErrReadOnly, ErrInvalid,
// ErrUnsupported, ErrClosed. They name the key and never contain a secret.
package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/volehq/vole/driver"
)

// Store keeps objects. Its methods may be called concurrently.
type Store interface {
	// Put stores data durably under key. The store checks that sum is the CRC-32C of
	// data: ErrCorrupt if not. If the key is taken, Put returns nil if the object has the
	// same size and checksum, so that it can be repeated when an answer was lost, and
	// ErrExists otherwise. The error may match ErrUncertain.
	Put(ctx context.Context, key string, data []byte, sum uint32) error

	// ReadAt fills p from offset off of the object. fs.ErrNotExist: it does not exist.
	// ErrCorrupt: it ends before off+len(p).
	ReadAt(ctx context.Context, key string, p []byte, off int64) error

	// Delete removes the object. It is no error if there is none.
	Delete(ctx context.Context, key string) error

	// Stat describes the object. fs.ErrNotExist: it does not exist.
	Stat(ctx context.Context, key string) (Info, error)

	// List yields the objects whose keys begin with prefix, in the order of the keys'
	// bytes. As in S3 the prefix is a string: "o/a" also finds "o/ab/1". Objects that are
	// stored or deleted during the listing may be yielded or not. An error ends it.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]

	// Write stores all that r yields under key, atomically. A key that is taken is treated
	// as by Put, after r was read. The error may match ErrUncertain.
	Write(ctx context.Context, key string, r io.Reader) error

	// Open streams the object until ctx is done. fs.ErrNotExist: it does not exist. A
	// stream that breaks off returns an error, never io.EOF.
	Open(ctx context.Context, key string) (io.ReadCloser, error)

	// PresignPut returns a request that stores data of that size and CRC-32C under key
	// without credentials, within ttl, which is 1 second to 7 days. The store refuses other
	// lengths and checksums, and with status 412 a key that is taken, even by the same
	// request. ErrUnsupported: the store is a directory.
	PresignPut(ctx context.Context, key string, size int64, sum uint32, ttl time.Duration) (Request, error)

	// PresignGet returns a request that reads the object, or a Range of it, without
	// credentials, within ttl. ErrUnsupported: the store is a directory.
	PresignGet(ctx context.Context, key string, ttl time.Duration) (Request, error)

	// Ping reports whether the store can be read now. It makes one attempt.
	Ping(ctx context.Context) error

	// Close releases the store's resources. Later calls return ErrClosed.
	Close() error
}

// Info describes an object.
type Info struct {
	Key      string
	Size     int64     // in bytes
	Modified time.Time // by the clock of the store
}

// Request is an HTTP request that needs no credentials. Its URL is a secret until it expires.
type Request struct {
	Method string
	URL    string
	Header http.Header // to be sent exactly so, with Content-Length
}

// ErrUncertain marks the error of a failed call whose object may have been stored all the
// same, or may still be.
var ErrUncertain = errors.New("it may have been stored all the same")

// maxKey is the longest key that S3 accepts, in bytes.
const maxKey = 1024

// tmpDir is where a directory keeps unfinished objects. No key of any store begins with it, so
// that objects can be copied from one kind of store to another.
const tmpDir = "tmp"

// markUncertain makes err match ErrUncertain.
func markUncertain(err error) error { return fmt.Errorf("%w (%w)", err, ErrUncertain) }

// wrapFailure adds the operation and the key to err. nil stays nil.
func wrapFailure(op, key string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s blob %s: %w", op, key, err)
}

// checkKey returns ErrInvalid unless key is a valid key.
func checkKey(key string) error {
	switch first, _, _ := strings.Cut(key, "/"); {
	case len(key) > maxKey:
		return driver.Errorf(driver.ErrInvalid, "a blob's key of %d bytes is too long; %d are allowed", len(key), maxKey)
	case key == "." || !fs.ValidPath(key) || strings.ContainsFunc(key, isUnprintable):
		return driver.Errorf(driver.ErrInvalid, "%q is not a valid blob key", key)
	case first == tmpDir:
		return driver.Errorf(driver.ErrInvalid, "a blob's key must not begin with %q", tmpDir+"/")
	}
	return nil
}

// isUnprintable reports characters that some store, or its XML, might change.
func isUnprintable(r rune) bool {
	return unicode.IsControl(r) || r == '\\' || r == unicode.ReplacementChar
}

// checkPrefix returns ErrInvalid unless some valid key can begin with prefix.
func checkPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	return checkKey(strings.TrimSuffix(prefix, "/"))
}

// errChecksum is the error for data that does not have the checksum that its caller gave.
var errChecksum = driver.Errorf(driver.ErrCorrupt, "the data does not have the checksum that came with it")

// errKeyTaken is the error for a key that holds another object.
var errKeyTaken = driver.Errorf(driver.ErrExists, "the key holds another object")

// truncatedError is the error for an object that ends before byte end.
func truncatedError(end int64) error {
	return driver.Errorf(driver.ErrCorrupt, "the object ends before byte %d", end)
}
