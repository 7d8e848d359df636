package native

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"hash"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/core"
)

// readFile answers with the content of a file, or with the ranges that the request asks for.
func (a *API) readFile(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path := q.Required("path")
	return a.readFS(r, q, func(f *vole.FS) error {
		h, err := f.Open(r.Context(), path, vole.OpenOptions{})
		if err != nil {
			return err
		}
		defer h.Close()
		c := &contentWriter{ResponseWriter: w}
		return errors.Join(core.ServeFile(c, r, h, true), c.refusal)
	})
}

// contentWriter turns the refusals of http.ServeContent (412, 416), which are plain text, into
// errors of the API. The body of a refusal is dropped.
type contentWriter struct {
	http.ResponseWriter
	refusal error
}

func (c *contentWriter) WriteHeader(status int) {
	switch status {
	case http.StatusPreconditionFailed:
		c.refusal = errPrecondition
	case http.StatusRequestedRangeNotSatisfiable:
		c.refusal = errRange
	default:
		c.ResponseWriter.WriteHeader(status)
		return
	}
	c.Header().Del("Content-Length")
	c.Header().Del("Content-Disposition")
}

func (c *contentWriter) Write(p []byte) (int, error) {
	if c.refusal != nil {
		return len(p), nil
	}
	return c.ResponseWriter.Write(p)
}

// ReadFrom leaves the size of pieces to the writer below.
func (c *contentWriter) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.ResponseWriter, r) }

var errRange = &core.Error{Code: api.CodeRangeNotSatisfiable, Message: "the range lies outside the file; Content-Range has its size"}

// writeFile replaces a file by the body, or makes it. The new content becomes visible as a whole
// and only if the request is complete: its length, its digest (Repr-Digest) and the version of
// the file that it replaces (If-Match, If-None-Match) are checked at the end of the body, before
// the backend commits. A sparse body has its extents encoded in it.
func (a *API) writeFile(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path := q.Required("path")
	r.Audit.Path = path
	perm, err := queryMode(q, 0)
	opts := vole.WriteOptions{Mode: perm, Exclusive: q.Bool("exclusive"), Size: q.Int("size", announcedSize(r), 0, math.MaxInt64)}
	length := int64(-1)
	if err := errors.Join(err, q.Err()); err != nil {
		return err
	}
	sparse := r.Header.Get("Content-Type") == api.TypeSparse
	if sparse && !q.Has("size") {
		return driver.Errorf(vole.ErrInvalid, "the parameter size is required: the size of the sparse file")
	}
	// The body must have exactly the announced size; with a length in the header that shows
	// before a byte is read.
	if !sparse && q.Has("size") {
		if length = opts.Size; r.ContentLength >= 0 && r.ContentLength != length {
			return lengthMismatch(r.ContentLength, length)
		}
	}
	return a.withFS(r, false, func(f *vole.FS) error {
		// If-None-Match: * is how HTTP says "only if it does not exist".
		conditional := r.Header.Get("If-None-Match") == "*"
		opts.Exclusive = opts.Exclusive || conditional
		body, err := a.newCheckedBody(r, f, path, r.Body)
		if err != nil {
			return err
		}
		defer body.releaseLock()
		body.announced = length
		var data io.Reader = body
		if sparse {
			d := api.NewSparseDecoder(body, opts.Size)
			data, opts.NextData = d, func(ctx context.Context) (int64, int64, error) { return body.nextSparseData(ctx, d) }
		}
		n, err := f.WriteFrom(r.Context(), path, data, opts)
		if conditional && errors.Is(err, vole.ErrExists) {
			return errPrecondition
		}
		return core.AnswerJSON(w, http.StatusOK, api.Written{Size: n}, err)
	})
}

var errPrecondition = &core.Error{Code: api.CodePreconditionFailed, Message: "the file does not match If-Match or If-None-Match; read it again"}

// newCheckedBody returns a reader of body that fails at its end, before the backend replaces the
// file, if the digest is not the announced one or the file is no longer the version of If-Match.
// From that check until releaseLock, the caller holds the lock of the path, so that of several
// concurrent writers with the same If-Match one succeeds. The lock is this server's: writers by
// other servers are not excluded.
func (a *API) newCheckedBody(r *core.Request, f *vole.FS, path string, body io.Reader) (*checkedBody, error) {
	sum, want, err := parseReprDigest(r.Header.Values(api.HeaderDigest))
	if err != nil {
		return nil, err
	}
	match := r.Header.Get("If-Match")
	fits := func() error {
		if match == "" {
			return nil
		}
		e, err := f.Stat(r.Context(), path)
		if errors.Is(err, vole.ErrNotExist) || err == nil && match != "*" && !strings.Contains(match, core.ContentETag(e)) {
			return errPrecondition
		}
		return err
	}
	if err := fits(); err != nil {
		return nil, err
	}
	clean, err := driver.CleanPath(path)
	if err != nil {
		return nil, err
	}
	turn := func() (func(), error) { return a.replaceLocks.Lock(r.Context(), f.Volume().ID()+" "+clean) }
	return &checkedBody{source: body, announced: -1, sum: sum, wantSum: want, checkVersion: fits, takeLock: turn}, nil
}

// checkedBody is the body of a write with its conditions. One request owns it.
type checkedBody struct {
	source       io.Reader
	sum          hash.Hash // nil: no digest was sent
	wantSum      []byte
	received     int64
	announced    int64 // expected length; -1: unknown
	checkVersion func() error
	takeLock     func() (end func(), err error)
	unlock       func() // releases the lock; nil: not taken yet
}

// lengthMismatch returns the error for a body whose length is not that of the parameter size.
func lengthMismatch(came, announced int64) error {
	return driver.Errorf(vole.ErrInvalid, "the body has %d bytes, and the parameter size says %d", came, announced)
}

// nextSparseData is NextData of a sparse body. At the last extent it reads to the end of the
// body, which runs the checks.
func (b *checkedBody) nextSparseData(ctx context.Context, d *api.SparseDecoder) (off, n int64, err error) {
	off, n, err = d.NextData(ctx)
	if !errors.Is(err, io.EOF) {
		return off, n, err
	}
	if more, err := fillBuffer(b, make([]byte, 1)); more > 0 {
		return 0, 0, driver.Errorf(vole.ErrInvalid, "the sparse body continues after its last extent")
	} else if err != nil {
		return 0, 0, err
	}
	return 0, 0, io.EOF
}

// releaseLock releases the lock of the path, if the body has come to its end.
func (b *checkedBody) releaseLock() {
	if b.unlock != nil {
		b.unlock()
	}
}

// Read hashes and counts what it returns, and at the end runs the checks.
func (b *checkedBody) Read(p []byte) (int, error) {
	n, err := b.source.Read(p)
	if b.sum != nil {
		b.sum.Write(p[:n])
	}
	if b.received += int64(n); b.announced >= 0 && (b.received > b.announced || errors.Is(err, io.EOF) && b.received < b.announced) {
		return n, lengthMismatch(b.received, b.announced)
	}
	if errors.Is(err, io.EOF) {
		// At the end of the body, in this order: digest, lock of the path, version of the file.
		// The backend commits after this returns io.EOF.
		if b.sum != nil && string(b.sum.Sum(nil)) != string(b.wantSum) {
			return n, errDigest
		}
		if b.unlock == nil {
			var terr error
			if b.unlock, terr = b.takeLock(); terr != nil {
				return n, terr
			}
		}
		if ferr := b.checkVersion(); ferr != nil {
			return n, ferr
		}
	}
	return n, err
}

var errDigest = &core.Error{Code: api.CodeDigestMismatch, Message: "the bytes received do not match Repr-Digest; send them again"}

// parseReprDigest returns the hash and the expected sum that Repr-Digest headers (RFC 9530) ask
// for, nil if there are none. Of several algorithms the first known one counts.
func parseReprDigest(headers []string) (hash.Hash, []byte, error) {
	if len(headers) == 0 {
		return nil, nil, nil
	}
	for item := range strings.SplitSeq(strings.Join(headers, ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(item), "=")
		var h hash.Hash
		switch strings.ToLower(name) {
		case "sha-256":
			h = sha256.New()
		case "sha-512":
			h = sha512.New()
		default:
			continue
		}
		value = strings.TrimSpace(value)
		if len(value) < 2 || value[0] != ':' || value[len(value)-1] != ':' {
			return nil, nil, driver.Errorf(vole.ErrInvalid, "Repr-Digest %q: write sha-256=:BASE64:", item)
		}
		want, err := base64.StdEncoding.DecodeString(value[1 : len(value)-1])
		if err != nil || len(want) != h.Size() {
			return nil, nil, driver.Errorf(vole.ErrInvalid, "Repr-Digest %q: write sha-256=:BASE64:", item)
		}
		return h, want, nil
	}
	return nil, nil, driver.Errorf(vole.ErrInvalid, "Repr-Digest has neither sha-256 nor sha-512")
}

// announcedSize returns the size that a request announces for a file, as a hint for the quota:
// the size header, or the length of a large body. For small bodies it returns 0: the quota
// refuses those soon enough without it, after other errors that say more.
func announcedSize(r *core.Request) int64 {
	if n, err := strconv.ParseInt(r.Header.Get(api.HeaderSizeHint), 10, 64); err == nil && n > 0 && r.ContentLength < 0 {
		return n
	}
	if r.ContentLength > 1<<20 {
		return r.ContentLength
	}
	return 0
}
