package blob

import (
	"bytes"
	"context"
	"errors"
	"hash/crc32"
	"io"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/volehq/vole/driver"
)

// conflicts is how often an object is put again after the service refused it for one
// that is then not there: another put that failed, or a deletion.
const conflicts = 4

// errDamaged is data that arrived otherwise than it was sent.
var errDamaged = errors.New("the data was damaged on its way to the storage service")

// Put implements Store.
func (s *s3Store) Put(ctx context.Context, key string, data []byte, sum uint32) error {
	err := s.enter(ctx, key)
	if err == nil {
		err = s.put(ctx, key, data, sum)
	}
	return failed("put", key, err)
}

// put makes an object of data with one request. The checksum goes with it, signed; so
// the service checks the data and it is not summed here. The SHA-256 of the body that S3
// also knows would cost 40 % of the rate and helps only against someone on the way,
// against whom there is TLS.
func (s *s3Store) put(ctx context.Context, key string, data []byte, sum uint32) error {
	opts := minio.PutObjectOptions{
		DisableContentSha256: true,
		UserMetadata:         map[string]string{sumHeader: sumText(sum)},
	}
	opts.SetMatchETagExcept("*")
	return s.create(ctx, key, int64(len(data)), sum, func(ctx context.Context) error {
		_, err := s.client.PutObject(ctx, s.opts.Bucket, s.name(key), bytes.NewReader(data), int64(len(data)), "", "", opts)
		if mismatch(err) {
			if crc32.Checksum(data, Castagnoli) != sum {
				return badSum()
			}
			return errDamaged
		}
		return err
	})
}

// mismatch reports that the service found another checksum than was sent.
func mismatch(err error) bool {
	switch codeOf(err) {
	case "BadDigest", "XAmzContentChecksumMismatch":
		return true
	}
	return false
}

// create makes the request that lets an object appear, and settles what its failure
// means.
func (s *s3Store) create(ctx context.Context, key string, size int64, sum uint32, request func(context.Context) error) error {
	maybe := false // some attempt may have stored it
	var err error
	for round := range conflicts {
		err = s.retry(ctx, func(ctx context.Context) error {
			err := request(ctx)
			if err == nil || err == errDamaged || !unclear(err) {
				return err
			}
			maybe = true
			// Perhaps it is there now. Perhaps it was before, and the service refused
			// it without reading it, so that only a broken connection was seen.
			if ctx.Err() == nil {
				if found := s.compare(ctx, key, size, sum); found == nil || errors.Is(found, driver.ErrExists) {
					return found
				}
			}
			return err
		})
		if errors.Is(err, driver.ErrExists) {
			return err
		}
		gone := maybe && codeOf(err) == "NoSuchUpload" // so it was completed, by us
		if !conflict(err) && !gone {
			break
		}
		refused := err
		err = s.retry(ctx, func(ctx context.Context) error { return s.compare(ctx, key, size, sum) })
		if err == nil || errors.Is(err, driver.ErrExists) {
			return err
		}
		if !errors.Is(s.translate(err), driver.ErrNotExist) || gone {
			break
		}
		if err = refused; pause(ctx, round) != nil {
			err = ctx.Err()
			break
		}
	}
	if err == nil {
		return nil
	}
	if err = s.translate(err); maybe {
		return uncertain(err)
	}
	return err
}

// compare returns ErrExists unless the object at key has that size and checksum.
func (s *s3Store) compare(ctx context.Context, key string, size int64, sum uint32) error {
	found, err := s.head(ctx, key)
	if err != nil {
		return err
	}
	if found.Size != size {
		return taken()
	}
	got := found.ChecksumCRC32C
	if got == "" || strings.Contains(got, "-") {
		// Put by one who gave none, or in parts: then it is a sum of sums.
		if got, err = s.sum(ctx, key); err != nil {
			return err
		}
	}
	if got != sumText(sum) {
		return taken()
	}
	return nil
}

// sum reads the object for its checksum.
func (s *s3Store) sum(ctx context.Context, key string) (string, error) {
	r := &reader{ctx: ctx, s: s, key: key, end: -1}
	defer r.Close()
	h := crc32.New(Castagnoli)
	err := copyAll(h, r)
	return sumText(h.Sum32()), err
}

// Write implements Store.
func (s *s3Store) Write(ctx context.Context, key string, r io.Reader) error {
	err := s.enter(ctx, key)
	if err == nil {
		err = s.write(ctx, key, &ctxReader{ctx, r})
	}
	return failed("write", key, err)
}

func (s *s3Store) write(ctx context.Context, key string, r io.Reader) error {
	// Most are small; the buffer grows with what there is.
	var first bytes.Buffer
	_, err := io.CopyN(&first, r, s.opts.PartSize)
	if errors.Is(err, io.EOF) {
		return s.put(ctx, key, first.Bytes(), crc32.Checksum(first.Bytes(), Castagnoli))
	}
	if err != nil {
		return err
	}
	u, err := s.startUpload(ctx, key)
	if err != nil {
		return s.translate(err)
	}
	err = u.send(ctx, io.MultiReader(&first, r))
	if err == nil {
		err = u.complete(ctx)
	}
	if !u.done {
		// Also where the object was there before.
		u.abort(ctx)
	}
	return err
}

// tooLarge is the error for more parts than S3 allows.
func tooLarge(limit int64) error {
	return driver.Errorf(driver.ErrInvalid, "an object can have %d bytes at most; set a larger part size", limit)
}
