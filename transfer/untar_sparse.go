package transfer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"strconv"
	"strings"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// archive/tar reads the holes of a sparse file as zeros, byte by byte: a header that claims
// terabytes would keep a processor busy for hours. So the reader beneath it hides that a file
// is sparse: archive/tar sees a regular file of the bytes that are stored, and where they
// belong is read here. The formats are GNU tar's own and its PAX formats 0.0, 0.1 and 1.0:
// https://www.gnu.org/software/tar/manual/html_node/Sparse-Formats.html.

const (
	maxSegments  = 1 << 20 // ranges of one file
	maxPaxRecord = 1 << 20 // bytes of an extended header, as archive/tar bounds it
	maxMapDigits = 20      // of a number in a map

	// The keys of sparse files, and what archive/tar is shown instead, of the same length.
	sparseKey = "GNU.sparse."
	hiddenKey = "VLE.sparse."
)

// sparseFile is where the stored bytes of a sparse file belong.
type sparseFile struct {
	name   string // ""; that of the entry
	size   int64  // of the file
	ranges []dataRange
	// mapped: the map comes before the bytes, in the entry itself (format 1.0).
	mapped bool
}

// sparseFilter is what archive/tar reads from. The caller reads each entry to its end and
// then calls endEntry, so that the filter can tell headers from content.
type sparseFilter struct {
	r           io.Reader
	visible     []byte      // to be read before anything more of r
	passThrough int64       // bytes of a header that are passed on as they are
	dataRead    int64       // bytes of the entry that were passed on; -1: headers are read
	pax         *sparseFile // what the extended header before an entry says
	file        *sparseFile // of the present entry; nil: it is not sparse
	failed      error       // of r, behind out

	entries int  // whose headers were read
	ended   bool // the blocks of zeros that end an archive were read
}

func newSparseFilter(r io.Reader) *sparseFilter { return &sparseFilter{r: r, dataRead: -1} }

// endEntry says that the present entry was read.
func (f *sparseFilter) endEntry() {
	if f.dataRead >= 0 {
		f.passThrough = (tarUnit - f.dataRead%tarUnit) % tarUnit
		f.dataRead, f.pax, f.file = -1, nil, nil
	}
}

func (f *sparseFilter) Read(p []byte) (int, error) {
	for len(f.visible) == 0 {
		switch {
		case f.failed != nil:
			return 0, f.failed
		case f.dataRead >= 0:
			n, err := f.r.Read(p)
			f.dataRead += int64(n)
			return n, err
		case f.passThrough > 0:
			n, err := f.r.Read(p[:min(int64(len(p)), f.passThrough)])
			f.passThrough -= int64(n)
			return n, err
		}
		f.readHeaderBlock()
	}
	n := copy(p, f.visible)
	f.visible = f.visible[n:]
	return n, nil
}

// readVisible reads n bytes that archive/tar is to see. false: not so many came.
func (f *sparseFilter) readVisible(n int64) ([]byte, bool) {
	b := make([]byte, n)
	m, err := io.ReadFull(f.r, b)
	f.visible = append(f.visible, b[:m]...)
	f.failed = err
	return f.visible[len(f.visible)-m:], err == nil
}

// readHeaderBlock reads a block of headers.
func (f *sparseFilter) readHeaderBlock() {
	block, ok := f.readVisible(tarUnit)
	if !ok {
		return
	}
	if bytes.Equal(block, make([]byte, tarUnit)) {
		f.ended = true
		return
	}
	if hasValidChecksum(block) {
		solaris := block[156] == typeSolarisPAX
		if solaris {
			block[156] = tar.TypeXHeader
		}
		if boundBinaryTime(block[136:148]) || solaris {
			setHeaderChecksum(block)
		}
	}
	size, err := parseTarNumber(block[124:136])
	padded := (size + tarUnit - 1) / tarUnit * tarUnit
	switch kind := block[156]; {
	case err != nil || size < 0 || padded < 0:
		f.dataRead = 0 // archive/tar refuses it
	case (kind == tar.TypeXHeader || kind == tar.TypeXGlobalHeader) && size <= maxPaxRecord:
		if records, ok := f.readVisible(padded); ok {
			forEachRecord(records[:size], boundRecordNumber)
			if kind == tar.TypeXHeader {
				f.pax = hideSparseRecords(records[:size])
			}
		}
	case kind == tar.TypeXHeader, kind == tar.TypeXGlobalHeader, kind == tar.TypeGNULongName, kind == tar.TypeGNULongLink:
		f.passThrough = padded
	default:
		f.dataRead, f.file = 0, f.pax
		f.entries++
		if kind == tar.TypeGNUSparse && string(block[257:265]) == "ustar  \x00" && hasValidChecksum(block) {
			f.readOldSparseMap(block)
		}
	}
}

// readOldSparseMap reads the map of GNU's own format, which is in the header and in blocks behind it,
// and makes the header that of a regular file.
func (f *sparseFilter) readOldSparseMap(b []byte) {
	size, err := parseTarNumber(b[483:495])
	if err != nil || size < 0 {
		return // archive/tar refuses it
	}
	file := &sparseFile{size: size}
	more := file.readOldRanges(b[386:482], b[482])
	for block := make([]byte, tarUnit); more; more = file.readOldRanges(block[:504], block[504]) {
		if _, err := io.ReadFull(f.r, block); err != nil || len(file.ranges) > maxSegments {
			f.failed = driver.Errorf(vole.ErrCorrupt, "the map of a sparse file is cut off or has more than %d ranges", maxSegments)
			return
		}
	}
	f.file, b[156] = file, tar.TypeReg
	setHeaderChecksum(b)
}

// readOldRanges reads the entries of one block, and reports whether another one follows.
func (s *sparseFile) readOldRanges(b []byte, extended byte) bool {
	for ; len(b) >= 24; b = b[24:] {
		off, err1 := parseTarNumber(b[:12])
		n, err2 := parseTarNumber(b[12:24])
		if b[0] == 0 {
			break
		}
		if err := errors.Join(err1, err2); err != nil {
			off = -1 // which open refuses
		}
		s.ranges = append(s.ranges, dataRange{off, n})
	}
	return extended != 0
}

// headerChecksum is the checksum of a header: the sum of its bytes, with blanks in its place.
func headerChecksum(b []byte) (sum int64) {
	for _, c := range b[:tarUnit] {
		sum += int64(c)
	}
	for _, c := range b[148:156] {
		sum += ' ' - int64(c)
	}
	return sum
}

// hasValidChecksum reports whether a header has its checksum. One without it is damaged, or old
// enough to be left to archive/tar.
func hasValidChecksum(b []byte) bool {
	sum, err := parseTarNumber(b[148:156])
	return err == nil && sum == headerChecksum(b)
}

// setHeaderChecksum gives a header its checksum: six digits, a NUL, and a blank.
func setHeaderChecksum(b []byte) {
	putOctalField(b[148:155], headerChecksum(b))
	b[155] = ' '
}

// parseTarNumber reads a field of a header: octal, or binary where the first bit is set.
func parseTarNumber(b []byte) (int64, error) {
	if b[0]&0x80 == 0 {
		s, _, _ := strings.Cut(string(bytes.Trim(b, " \x00")), "\x00")
		if s == "" {
			return 0, nil
		}
		return strconv.ParseInt(s, 8, 64)
	}
	n := int64(b[0] & 0x3f)
	if b[0]&0x40 != 0 {
		return 0, errors.New("a negative number")
	}
	for _, c := range b[1:] {
		if n > 1<<54 {
			return 0, errors.New("a number that is too large")
		}
		n = n<<8 | int64(c)
	}
	return n, nil
}

// forEachRecord calls fn with the key and the value of each record of an extended header. What
// is malformed archive/tar refuses.
func forEachRecord(records []byte, fn func(key, value []byte)) {
	for len(records) > 0 {
		digits, _, ok := bytes.Cut(records, []byte(" "))
		n, err := strconv.Atoi(string(digits))
		if !ok || err != nil || n <= len(digits)+1 || n > len(records) {
			return
		}
		key, value, ok := bytes.Cut(bytes.TrimSuffix(records[len(digits)+1:n], []byte("\n")), []byte("="))
		records = records[n:]
		if ok {
			fn(key, value)
		}
	}
}

// hideSparseRecords renames the records of a sparse file in an extended header, and returns what
// they say; nil: there are none.
func hideSparseRecords(records []byte) *sparseFile {
	s, found, major := &sparseFile{size: -1}, false, ""
	forEachRecord(records, func(key, value []byte) {
		what, mine := strings.CutPrefix(string(key), sparseKey)
		if !mine {
			return
		}
		found = true
		copy(key, hiddenKey)
		if what == "major" {
			major = string(value)
		}
		s.addRecord(what, string(value))
	})
	if !found {
		return nil
	}
	s.mapped = major == "1"
	return s
}

// addRecord takes one record. A number that is none becomes -1, which open refuses.
func (s *sparseFile) addRecord(what, value string) {
	number := func(v string) int64 {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			n = -1
		}
		return n
	}
	switch what {
	case "name":
		s.name = value
	case "size", "realsize":
		s.size = number(value)
	case "offset":
		s.ranges = append(s.ranges, dataRange{number(value), 0})
	case "numbytes":
		if k := len(s.ranges); k > 0 {
			s.ranges[k-1].n = number(value)
		}
	case "map":
		s.ranges = nil
		var fields []int64
		for v := range strings.SplitSeq(value, ",") {
			fields = append(fields, number(v))
		}
		for k := 0; k+1 < len(fields); k += 2 {
			s.ranges = append(s.ranges, dataRange{fields[k], fields[k+1]})
		}
	}
}

// openContent returns the content of a sparse file of which r has so many stored bytes.
func (s *sparseFile) openContent(r io.Reader, stored int64) (*mappedContent, error) {
	if s.mapped {
		used, err := s.readSparseMap(r)
		if err != nil {
			return nil, err
		}
		stored -= used
	}
	end, sum := int64(0), int64(0)
	for _, g := range s.ranges {
		if g.off < end || g.n < 0 || g.n > s.size-g.off || g.off > s.size {
			return nil, driver.Errorf(vole.ErrInvalid, "a sparse file of %d bytes with a range of %d bytes at %d; ranges ascend and end within the file", s.size, g.n, g.off)
		}
		end, sum = g.off+g.n, sum+g.n
	}
	if s.size < 0 || sum != stored {
		return nil, driver.Errorf(vole.ErrInvalid, "a sparse file of %d bytes, of which ranges hold %d, with %d stored", s.size, sum, stored)
	}
	return &mappedContent{r: r, segs: s.ranges, data: sum}, nil
}

// readSparseMap reads the map of format 1.0, and returns how many bytes it takes.
func (s *sparseFile) readSparseMap(r io.Reader) (used int64, err error) {
	var text []byte // the unread part of the blocks that were read
	number := func() (int64, error) {
		for {
			if digits, rest, ok := bytes.Cut(text, []byte("\n")); ok {
				text = rest
				return strconv.ParseInt(string(digits), 10, 64)
			}
			if len(text) > maxMapDigits {
				return 0, driver.Errorf(vole.ErrInvalid, "the map of a sparse file is malformed")
			}
			block := make([]byte, tarUnit)
			if _, err := io.ReadFull(r, block); err != nil {
				return 0, err
			}
			used += tarUnit
			text = append(text, block...)
		}
	}
	count, err := number()
	if err == nil && (count < 0 || count > maxSegments) {
		err = driver.Errorf(vole.ErrInvalid, "a sparse file of %d ranges; the most is %d", count, maxSegments)
	}
	s.ranges = nil
	for ; err == nil && count > 0; count-- {
		var g dataRange
		if g.off, err = number(); err == nil {
			g.n, err = number()
		}
		s.ranges = append(s.ranges, g)
	}
	return used, err
}

// mappedContent is the content of a sparse file of an archive: its ranges only.
type mappedContent struct {
	r    io.Reader
	segs []dataRange // to come
	left int64       // of the present one
	data int64       // bytes of all
}

func (c *mappedContent) Close() error { return nil }

// NextData implements sparse.Content.
func (c *mappedContent) NextData(ctx context.Context) (off, n int64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, 0, err
	}
	for len(c.segs) > 0 {
		g := c.segs[0]
		c.segs = c.segs[1:]
		if g.n > 0 {
			c.left = g.n
			return g.off, g.n, nil
		}
	}
	return 0, 0, io.EOF
}

func (c *mappedContent) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) && c.left > 0 {
		// Not the error that readers of files take for one that has become shorter.
		return n, errCutRange
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// errCutRange says that an archive ends within the bytes of a sparse file.
var errCutRange = errors.New("the stream ends within a sparse file")
