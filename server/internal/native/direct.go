package native

import (
	"context"
	"errors"
	"math"
	"net/http"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/core"
)

// presignedTTL is how long a presigned request stays valid: enough for one chunk.
const presignedTTL = 5 * time.Minute

// directBackend is a backend whose bytes clients can move without the server, by presigned
// requests to S3.
type directBackend interface {
	Locate(ctx context.Context, id, path string, off int64, ttl time.Duration) ([]bucket.Range, int64, error)
	Reserve(ctx context.Context, parts []bucket.Part, ttl time.Duration) ([]bucket.Reserved, error)
	CommitFile(ctx context.Context, id, path string, size int64, parts []bucket.Part, blobs []string, opts driver.WriteOptions, under driver.FSOptions) error
}

// directRoutes are the routes of transfers between client and S3. The server only hands out
// presigned requests and commits what was put.
func (a *API) directRoutes() []*core.Route {
	// All three need a backend on S3; others answer unsupported.
	const v = volumesPath + "/{volume}/direct"
	// Parts of large files make long bodies: one part takes about 100 bytes of JSON.
	reserve := changeRoute("POST", v+"/reserve", "reserveParts", writeScope, withBody(a.reserveParts))
	commit := changeRoute("POST", v+"/commit", "commitParts", writeScope, withBody(a.commitParts))
	reserve.MaxBody, commit.MaxBody = 8<<20, 8<<20
	return []*core.Route{readRoute(v, "locate", readScope, a.locateRanges), reserve, commit}
}

// directVolume returns the volume of the request and its backend, or ErrUnsupported if the
// backend has no direct transfers.
func (a *API) directVolume(r *core.Request) (directBackend, *vole.Volume, error) {
	v, err := r.VisibleVolume(r.PathValue("volume"))
	if err != nil {
		return nil, nil, err
	}
	b, err := r.Backend()
	if err != nil {
		return nil, nil, err
	}
	d, ok := b.(directBackend)
	if !ok {
		return nil, nil, driver.Errorf(vole.ErrUnsupported, "the bytes of these volumes are not in S3; read and write them through the server")
	}
	return d, v, nil
}

// locateRanges answers with where the ranges of a file lie, from offset on: inline data, or a
// presigned request with checksums.
func (a *API) locateRanges(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	p, off := q.Required("path"), q.Int("offset", 0, 0, math.MaxInt64)
	if err := q.Err(); err != nil {
		return err
	}
	d, v, err := a.directVolume(r)
	if err != nil {
		return err
	}
	list, next, err := d.Locate(r.Context(), v.ID(), p, off, presignedTTL)
	if err != nil {
		return err
	}
	out := api.Located{Ranges: make([]api.LocatedRange, len(list)), Expires: time.Now().Add(presignedTTL).UTC()}
	if next >= 0 {
		out.Next = next
	}
	for i, x := range list {
		out.Ranges[i] = api.LocatedRange{Offset: x.Pos, Length: x.Len, Data: x.Data}
		if x.Get != nil {
			get := toAPIPresigned(*x.Get)
			out.Ranges[i].Get, out.Ranges[i].ObjectOffset, out.Ranges[i].ObjectSize, out.Ranges[i].Crc32C = &get, x.Offset, x.Size, x.Sums
		}
	}
	return core.WriteJSON(w, http.StatusOK, out)
}

// toAPIPresigned returns the wire form of a presigned request.
func toAPIPresigned(r bucket.Request) api.Presigned {
	out := api.Presigned{Method: r.Method, URL: r.URL, Headers: map[string]string{}}
	for name := range r.Header {
		out.Headers[name] = r.Header.Get(name)
	}
	return out
}

// toBucketParts returns the parts of a request as the backend has them, and the blobs that hold
// them.
func toBucketParts(list []api.Part) (parts []bucket.Part, blobs []string, err error) {
	for _, p := range list {
		if p.Crc32C < 0 || p.Crc32C > math.MaxUint32 {
			return nil, nil, driver.Errorf(vole.ErrInvalid, "crc32c %d is not a 32-bit number", p.Crc32C)
		}
		parts = append(parts, bucket.Part{Pos: p.Offset, Size: p.Size, Sum: uint32(p.Crc32C), Sums: p.Crc32Cs})
		blobs = append(blobs, p.Blob)
	}
	return parts, blobs, nil
}

// reserveParts registers a blob for each part and answers with presigned requests to put them.
// What is never committed is garbage that the sweeper collects.
func (a *API) reserveParts(w http.ResponseWriter, r *core.Request, in api.ReserveParts) error {
	d, _, err := a.directVolume(r)
	if err != nil {
		return err
	}
	list, _, err := toBucketParts(in.Parts)
	if err != nil {
		return err
	}
	for _, p := range list {
		if err := a.core.CheckFileSize(p.Pos); err != nil { // commitParts would refuse it
			return err
		}
	}
	reserved, err := d.Reserve(r.Context(), list, presignedTTL)
	if err != nil {
		return err
	}
	out := api.Reserved{Expires: time.Now().Add(presignedTTL).UTC(), Parts: make([]api.ReservedPart, len(reserved))}
	for i, x := range reserved {
		out.Parts[i] = api.ReservedPart{Blob: x.Blob, Put: toAPIPresigned(x.Put)}
	}
	return core.WriteJSON(w, http.StatusOK, out)
}

// commitParts makes a file of parts that the client has put. It checks size limit and rights
// itself, because the direct backend is not guarded.
func (a *API) commitParts(w http.ResponseWriter, r *core.Request, in api.CommitParts) error {
	r.Audit.Path = in.Path
	d, v, err := a.directVolume(r)
	if err != nil {
		return err
	}
	list, blobs, err := toBucketParts(in.Parts)
	if err != nil {
		return err
	}
	opts := driver.WriteOptions{Exclusive: in.Exclusive, Size: in.Size}
	if in.Mode != "" {
		if opts.Mode, err = api.ParseMode(in.Mode); err != nil {
			return err
		}
	}
	// This backend is unguarded: see core.Request.Backend.
	if err := errors.Join(a.core.CheckFileSize(in.Size), r.Reauthorize()); err != nil {
		return err
	}
	err = d.CommitFile(r.Context(), v.ID(), in.Path, in.Size, list, blobs, opts, driver.FSOptions{})
	return core.AnswerJSON(w, http.StatusOK, api.Written{Size: in.Size}, err)
}
