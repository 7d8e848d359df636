package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"hash"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/volehq/vole/driver"
)

// writer writes records, and keeps the counts and the sum for the trailer.
type writer struct {
	w     io.Writer // also writes to sum
	sum   hash.Hash
	buf   bytes.Buffer
	enc   *json.Encoder // writes to buf
	count [kindCount]int64
}

// Write writes a manifest: the head, the records that records passes to add, which are in the
// order of the format, and the trailer, whose sum it returns. ErrCorrupt: Read would refuse a
// record. That is better found out now than when the manifest is needed.
func Write(w io.Writer, head *Head, records func(add func(*Record) error) error) (sum string, err error) {
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(4<<20))
	if err != nil {
		return "", err
	}
	m := newRecordWriter(z)
	var check checker
	add := func(r *Record) error {
		kind := r.recordKind()
		if err := check.checkRecord(r, kind); err != nil {
			return driver.Errorf(driver.ErrCorrupt, "a row is damaged (%v); run 'vole bucket check' for details", err)
		}
		m.count[kind]++
		return m.writeRecord(r)
	}
	head.Format, head.Version = format, version
	if err := add(&Record{Head: head}); err != nil {
		return "", err
	}
	if err := records(add); err != nil {
		return "", err
	}
	if sum, err = m.writeTrailer(); err != nil {
		return "", err
	}
	return sum, z.Close()
}

// newRecordWriter returns a writer of lines to w.
func newRecordWriter(w io.Writer) *writer {
	m := &writer{sum: sha256.New()}
	m.w = io.MultiWriter(w, m.sum)
	m.enc = json.NewEncoder(&m.buf)
	m.enc.SetEscapeHTML(false)
	return m
}

// writeTrailer writes the last record, and returns its sum.
func (m *writer) writeTrailer() (sum string, err error) {
	end := makeTrailer(m.count, m.sum.Sum(nil))
	return end.SHA256, m.writeRecord(&Record{End: &end})
}

// writeRecord writes a record.
func (m *writer) writeRecord(r *Record) error {
	m.buf.Reset()
	if err := m.enc.Encode(r); err != nil {
		return err
	}
	_, err := m.w.Write(m.buf.Bytes())
	return err
}
