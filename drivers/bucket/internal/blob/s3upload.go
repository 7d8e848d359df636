package blob

import (
	"bytes"
	"context"
	"errors"
	"hash/crc32"
	"io"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/volehq/vole/driver"
)

const (
	maxParts     = 10_000 // of one object, by S3
	abortTimeout = 20 * time.Second
	maxAborts    = 5
)

// multipartUpload is an object that is uploaded in parts. It appears when the upload is
// completed.
type multipartUpload struct {
	s         *s3Store
	key, id   string
	size      int64
	sum       uint32 // CRC-32C of the object
	completed bool   // the object exists

	mu    sync.Mutex           // guards what follows
	parts []minio.CompletePart // by number, from 1
}

// startMultipartUpload begins an upload whose parts have checksums.
func (s *s3Store) startMultipartUpload(ctx context.Context, key string) (*multipartUpload, error) {
	u := &multipartUpload{s: s, key: key}
	opts := minio.PutObjectOptions{UserMetadata: map[string]string{"x-amz-checksum-algorithm": "CRC32C"}}
	err := s.retryTransient(ctx, func(ctx context.Context) (err error) {
		u.id, err = s.client.NewMultipartUpload(ctx, s.opts.Bucket, s.objectName(key), opts)
		return err
	})
	return u, err
}

// sendParts uploads all of r, several parts at once. When it returns no request is under way.
func (u *multipartUpload) sendParts(ctx context.Context, r io.Reader) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	buffers := make(chan []byte, u.s.opts.Parallel)
	for range u.s.opts.Parallel {
		buffers <- nil
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for number := 1; ; number++ {
		var buf []byte
		select {
		case buf = <-buffers:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if buf == nil {
			buf = make([]byte, u.s.opts.PartSize)
		}
		n, err := io.ReadFull(r, buf)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			cancel(err)
			return err
		}
		if n > 0 && number > maxParts {
			err := driver.Errorf(driver.ErrInvalid, "an object can have %d bytes at most; set a larger part size", maxParts*u.s.opts.PartSize)
			cancel(err)
			return err
		}
		if n > 0 {
			u.countPart(buf[:n])
			wg.Go(func() {
				if err := u.putPart(ctx, number, buf[:n]); err != nil {
					cancel(u.s.translateError(err))
				}
				buffers <- buf
			})
		}
		if last {
			wg.Wait()
			return context.Cause(ctx)
		}
	}
}

// countPart adds a part to size and checksum.
func (u *multipartUpload) countPart(part []byte) {
	u.size += int64(len(part))
	u.sum = crc32.Update(u.sum, Castagnoli, part)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.parts = append(u.parts, minio.CompletePart{})
}

// putPart uploads one part. It may be repeated.
func (u *multipartUpload) putPart(ctx context.Context, number int, data []byte) error {
	sum := encodeChecksum(crc32.Checksum(data, Castagnoli))
	return u.s.retryTransient(ctx, func(ctx context.Context) error {
		opts := minio.PutObjectPartOptions{DisableContentSha256: true, CustomHeader: map[string][]string{}}
		opts.CustomHeader.Set(checksumHeader, sum)
		part, err := u.s.client.PutObjectPart(ctx, u.s.opts.Bucket, u.s.objectName(u.key), u.id, number,
			bytes.NewReader(data), int64(len(data)), opts)
		if isChecksumMismatch(err) {
			return errDamaged
		}
		if err != nil {
			return err
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		u.parts[number-1] = minio.CompletePart{PartNumber: number, ETag: part.ETag, ChecksumCRC32C: sum}
		return nil
	})
}

// completeUpload makes the object of the parts.
func (u *multipartUpload) completeUpload(ctx context.Context) error {
	var opts minio.PutObjectOptions
	opts.SetMatchETagExcept("*")
	return u.s.createObject(ctx, u.key, u.size, u.sum, func(ctx context.Context) error {
		_, err := u.s.client.CompleteMultipartUpload(ctx, u.s.opts.Bucket, u.s.objectName(u.key), u.id, u.parts, opts)
		u.completed = u.completed || err == nil
		return err
	})
}

// abortUpload deletes the parts, even if ctx has ended. A part that was cut off may arrive
// after an abort and bring the upload back, so the abort is repeated until the service does
// not know the upload. If it fails, the parts are left to the bucket's lifecycle rule.
func (u *multipartUpload) abortUpload(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	for round := range maxAborts {
		err := u.s.retryTransient(ctx, func(ctx context.Context) error {
			return u.s.client.AbortMultipartUpload(ctx, u.s.opts.Bucket, u.s.objectName(u.key), u.id)
		})
		if serviceErrorCode(err) == "NoSuchUpload" || waitBackoff(ctx, round) != nil {
			return
		}
	}
}
