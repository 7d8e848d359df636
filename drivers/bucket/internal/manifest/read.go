package manifest

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/google/uuid"
	"github.com/klauspost/compress/zstd"
	"github.com/volehq/vole/driver"
)

// reader reads a manifest that may contain anything.
type reader struct {
	src       *failureTrackingReader
	r         *bufio.Reader // of the decompressed bytes of src
	line      []byte
	lineCount int // lines read
	sum       hash.Hash
	kind      int // of the last line; -1: there was none
	count     [kindCount]int64
	check     checker
}

// Read reads a manifest, which must be of that volume and generation, and calls fn with each
// record, the head and the trailer included. Each record is valid by itself, except that names
// of files may be anything. Whether records agree with one another is not checked.
//
// ErrCorrupt, with the line: the manifest is damaged or incomplete. Errors of r and of fn are
// returned as they are, with the head if that has been read.
func Read(r io.Reader, org, vol []byte, generation int64, fn func(*Record) error) (head Head, err error) {
	src := &failureTrackingReader{r: r}
	z, err := zstd.NewReader(src, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return Head{}, err
	}
	defer z.Close()
	m := &reader{src: src, r: bufio.NewReaderSize(z, 64<<10), sum: sha256.New(), kind: -1}
	for {
		rec, err := m.nextRecord()
		if err == io.EOF {
			return m.check.head, nil
		}
		if err == nil && rec.Head != nil {
			err = m.checkHead(rec.Head, org, vol, generation)
		}
		if err == nil {
			err = fn(rec)
		}
		if err != nil {
			return m.check.head, err
		}
	}
}

// checkHead returns ErrCorrupt unless the head is of a volume and generation.
func (m *reader) checkHead(head *Head, org, vol []byte, generation int64) error {
	if bytes.Equal(head.Org, org) && bytes.Equal(head.Volume, vol) && head.Generation == generation {
		return nil
	}
	return m.corruptLineError("the head is of generation %d of volume %s of organisation %s, unlike the key",
		head.Generation, uuid.UUID(head.Volume), uuid.UUID(head.Org))
}

// corruptLineError is the error for a line that is damaged.
func (m *reader) corruptLineError(format string, args ...any) error {
	return driver.Errorf(driver.ErrCorrupt, "line %d: %s", m.lineCount, fmt.Sprintf(format, args...))
}

// readWholeLine reads up to the next newline. Memory grows with the bytes that arrive.
func (m *reader) readWholeLine() error {
	m.line = m.line[:0]
	for {
		part, err := m.r.ReadSlice('\n')
		m.line = append(m.line, part...)
		switch {
		case err == nil:
			m.lineCount++
			return nil
		case len(m.line) > maxLine:
			m.lineCount++
			return m.corruptLineError("longer than %d bytes", maxLine)
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(m.line) == 0:
			return io.EOF
		case errors.Is(err, io.EOF):
			return driver.Errorf(driver.ErrCorrupt, "it ends in line %d, before its trailer", m.lineCount+1)
		case m.src.err != nil:
			return m.src.err
		default:
			return driver.Errorf(driver.ErrCorrupt, "after line %d: %v", m.lineCount, err)
		}
	}
}

// failureTrackingReader remembers an error of the store. Any other error is damage to the
// object.
type failureTrackingReader struct {
	r   io.Reader
	err error
}

func (s *failureTrackingReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// nextRecord returns the next record, and io.EOF after the trailer.
func (m *reader) nextRecord() (*Record, error) {
	if err := m.readWholeLine(); err != nil {
		if err == io.EOF && m.kind != kindEnd {
			err = driver.Errorf(driver.ErrCorrupt, "it ends after line %d, without its trailer", m.lineCount)
		}
		return nil, err
	}
	var r Record
	if err := decodeStrictJSON(m.line, &r); err != nil {
		return nil, m.corruptLineError("%v", err)
	}
	kind := r.recordKind()
	switch {
	case kind < 0:
		return nil, m.corruptLineError("not exactly one record")
	case m.kind < 0 != (kind == kindHead), m.kind == kindEnd, kind < m.kind:
		return nil, m.corruptLineError("a record of this kind must not follow the one before")
	case kind == kindEnd && *r.End != makeTrailer(m.count, m.sum.Sum(nil)):
		return nil, m.corruptLineError("the trailer's counts or sum differ from the records")
	}
	if err := m.check.checkRecord(&r, kind); err != nil {
		return nil, m.corruptLineError("%v", err)
	}
	m.kind = kind
	m.count[kind]++
	m.sum.Write(m.line)
	return &r, nil
}
