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

// maxConflictRetries is how often an object is put again after the service refused the key as
// taken, and then had no object there: another put failed, or the object was deleted.
const maxConflictRetries = 4

// errDamaged is the error for data that arrived with another checksum than it was sent with.
var errDamaged = errors.New("the data was damaged on its way to the storage service")

// Put implements Store.
func (s *s3Store) Put(ctx context.Context, key string, data []byte, sum uint32) error {
	err := s.checkCall(ctx, key)
	if err == nil {
		err = s.putObject(ctx, key, data, sum)
	}
	return wrapFailure("put", key, err)
}

// putObject makes an object of data with one request. The checksum is part of the signed
// request, so the service checks the data, and it is not summed here. The SHA-256 of the body,
// which S3 also knows, would cost 40 % of the throughput and only helps against an attacker on
// the way, whom TLS keeps out.
func (s *s3Store) putObject(ctx context.Context, key string, data []byte, sum uint32) error {
	opts := minio.PutObjectOptions{
		DisableContentSha256: true,
		UserMetadata:         map[string]string{checksumHeader: encodeChecksum(sum)},
	}
	opts.SetMatchETagExcept("*")
	return s.createObject(ctx, key, int64(len(data)), sum, func(ctx context.Context) error {
		_, err := s.client.PutObject(ctx, s.opts.Bucket, s.objectName(key), bytes.NewReader(data), int64(len(data)), "", "", opts)
		if isChecksumMismatch(err) {
			if crc32.Checksum(data, Castagnoli) != sum {
				return errChecksum
			}
			return errDamaged
		}
		return err
	})
}

// isChecksumMismatch reports that the service computed another checksum than was sent.
func isChecksumMismatch(err error) bool {
	switch serviceErrorCode(err) {
	case "BadDigest", "XAmzContentChecksumMismatch":
		return true
	}
	return false
}

// createObject makes a request that lets an object appear, and decides what its failure means.
func (s *s3Store) createObject(ctx context.Context, key string, size int64, sum uint32, request func(context.Context) error) error {
	maybe := false // an attempt may have stored the object
	var err error
	for round := range maxConflictRetries {
		err = s.retryTransient(ctx, func(ctx context.Context) error {
			err := request(ctx)
			if err == nil || err == errDamaged || !mayHaveTakenEffect(err) {
				return err
			}
			maybe = true
			// The object may exist now. Or it existed before, and the service refused the
			// request without reading its body, so that only a broken connection was seen.
			if ctx.Err() == nil {
				if found := s.compareObject(ctx, key, size, sum); found == nil || errors.Is(found, driver.ErrExists) {
					return found
				}
			}
			return err
		})
		if errors.Is(err, driver.ErrExists) {
			return err
		}
		gone := maybe && serviceErrorCode(err) == "NoSuchUpload" // an attempt has completed it
		if !isKeyConflict(err) && !gone {
			break
		}
		refused := err
		err = s.retryTransient(ctx, func(ctx context.Context) error { return s.compareObject(ctx, key, size, sum) })
		if err == nil || errors.Is(err, driver.ErrExists) {
			return err
		}
		if !errors.Is(s.translateError(err), driver.ErrNotExist) || gone {
			break
		}
		if err = refused; waitBackoff(ctx, round) != nil {
			err = ctx.Err()
			break
		}
	}
	if err == nil {
		return nil
	}
	if err = s.translateError(err); maybe {
		return markUncertain(err)
	}
	return err
}

// compareObject returns ErrExists unless the object of key has that size and checksum.
func (s *s3Store) compareObject(ctx context.Context, key string, size int64, sum uint32) error {
	found, err := s.headObject(ctx, key)
	if err != nil {
		return err
	}
	if found.Size != size {
		return errKeyTaken
	}
	got := found.ChecksumCRC32C
	if got == "" || strings.Contains(got, "-") {
		// It was put without a checksum, or in parts, where it is a checksum of checksums.
		if got, err = s.hashObject(ctx, key); err != nil {
			return err
		}
	}
	if got != encodeChecksum(sum) {
		return errKeyTaken
	}
	return nil
}

// hashObject reads the object for its checksum.
func (s *s3Store) hashObject(ctx context.Context, key string) (string, error) {
	r := &resumingReader{ctx: ctx, s: s, key: key, end: -1}
	defer r.Close()
	h := crc32.New(Castagnoli)
	err := hashAll(h, r)
	return encodeChecksum(h.Sum32()), err
}

// Write implements Store.
func (s *s3Store) Write(ctx context.Context, key string, r io.Reader) error {
	err := s.checkCall(ctx, key)
	if err == nil {
		err = s.writeStream(ctx, key, &contextReader{ctx, r})
	}
	return wrapFailure("write", key, err)
}

// writeStream is Write with the client's errors. A stream that fits into one part is put in
// one request.
func (s *s3Store) writeStream(ctx context.Context, key string, r io.Reader) error {
	// Most streams are small; the buffer grows with what arrives.
	var first bytes.Buffer
	_, err := io.CopyN(&first, r, s.opts.PartSize)
	if errors.Is(err, io.EOF) {
		return s.putObject(ctx, key, first.Bytes(), crc32.Checksum(first.Bytes(), Castagnoli))
	}
	if err != nil {
		return err
	}
	u, err := s.startMultipartUpload(ctx, key)
	if err != nil {
		return s.translateError(err)
	}
	err = u.sendParts(ctx, io.MultiReader(&first, r))
	if err == nil {
		err = u.completeUpload(ctx)
	}
	if !u.completed {
		// Even if the object existed before.
		u.abortUpload(ctx)
	}
	return err
}
