package native

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
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

// contentETag is the validator of a file's content: it differs whenever the file was changed.
func contentETag(e vole.Entry) string {
	return fmt.Sprintf("\"%x-%x-%x-%x\"", e.Inode, e.Size, e.Mtime.UnixNano(), e.Ctime.UnixNano())
}

func (a *API) readFile(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path := q.Required("path")
	if err := q.Err(); err != nil {
		return err
	}
	return a.withFS(r, true, func(f *vole.FS) error {
		h, err := f.Open(r.Context(), path, vole.OpenOptions{})
		if err != nil {
			return err
		}
		defer h.Close()
		return serveFile(w, r, h)
	})
}

// serveFile answers with what is asked for of an open file.
func serveFile(w http.ResponseWriter, r *core.Request, h *vole.File) error {
	e, err := h.Stat(r.Context())
	if err != nil {
		return err
	}
	head := w.Header()
	head.Set("Etag", contentETag(e))
	head.Set("Content-Type", api.TypeBytes)
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Content-Disposition", "attachment")
	c := &contentWriter{ResponseWriter: w}
	return errors.Join(core.NewFileSource(r.Context(), h, e.Size).ServeContent(c, r, e.Mtime), c.refusal)
}

// contentWriter keeps what http.ServeContent says when it refuses, to be said as an
// error of the API.
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

// ReadFrom leaves it to the writer beneath how much is copied at once.
func (c *contentWriter) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.ResponseWriter, r) }

var errRange = &core.Error{Code: api.CodeRangeNotSatisfiable, Message: "the file has nothing in that range; Content-Range has its size"}

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
		return driver.Errorf(vole.ErrInvalid, "the parameter size is missing: the size of the sparse file")
	}
	if !sparse && q.Has("size") {
		if length = opts.Size; r.ContentLength >= 0 && r.ContentLength != length {
			return lengthMismatch(r.ContentLength, length)
		}
	}
	return a.withFS(r, false, func(f *vole.FS) error {
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
		if err != nil {
			return err
		}
		return core.WriteJSON(w, http.StatusOK, api.Written{Size: n})
	})
}

var errPrecondition = &core.Error{Code: api.CodePreconditionFailed, Message: "the file is not as If-Match or If-None-Match wants it; read it again"}

// newCheckedBody returns a body that fails at its end, before anything is replaced, when its
// digest is not the one that the client sent, or the file there not the version meant. From
// that look until end is called no other request replaces the file on this server: of
// several that want the same version only one writes.
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
		if errors.Is(err, vole.ErrNotExist) || err == nil && match != "*" && !strings.Contains(match, contentETag(e)) {
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

type checkedBody struct {
	source       io.Reader
	sum          hash.Hash // nil: not asked for
	wantSum      []byte
	received     int64
	announced    int64 // that the client announced; -1: it did not
	checkVersion func() error
	takeLock     func() (end func(), err error)
	unlock       func() // ends the turn; nil: it has not come
}

// lengthMismatch is the error for a body that has another length than the parameter size says.
func lengthMismatch(came, announced int64) error {
	return driver.Errorf(vole.ErrInvalid, "the body has %d bytes, and the parameter size says %d", came, announced)
}

// nextSparseData is d.NextData of a sparse body; its end is the end of the body.
func (b *checkedBody) nextSparseData(ctx context.Context, d *api.SparseDecoder) (off, n int64, err error) {
	off, n, err = d.NextData(ctx)
	if !errors.Is(err, io.EOF) {
		return off, n, err
	}
	if more, err := fillBuffer(b, make([]byte, 1)); more > 0 {
		return 0, 0, driver.Errorf(vole.ErrInvalid, "the sparse body goes on after its end")
	} else if err != nil {
		return 0, 0, err
	}
	return 0, 0, io.EOF
}

func (b *checkedBody) releaseLock() {
	if b.unlock != nil {
		b.unlock()
	}
}

func (b *checkedBody) Read(p []byte) (int, error) {
	n, err := b.source.Read(p)
	if b.sum != nil {
		b.sum.Write(p[:n])
	}
	if b.received += int64(n); b.announced >= 0 && (b.received > b.announced || errors.Is(err, io.EOF) && b.received < b.announced) {
		return n, lengthMismatch(b.received, b.announced)
	}
	if errors.Is(err, io.EOF) {
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

var errDigest = &core.Error{Code: api.CodeDigestMismatch, Message: "the bytes that arrived are not those of Repr-Digest; send them again"}

// parseReprDigest returns the hash that a Repr-Digest header (RFC 9530) asks for, nil if none.
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

// announcedSize is the size that a request tells of a file without a promise to keep to it. A
// quota refuses few bytes soon enough without it, after what else there is to say.
func announcedSize(r *core.Request) int64 {
	if n, err := strconv.ParseInt(r.Header.Get(api.HeaderSizeHint), 10, 64); err == nil && n > 0 && r.ContentLength < 0 {
		return n
	}
	if r.ContentLength > 1<<20 {
		return r.ContentLength
	}
	return 0
}
