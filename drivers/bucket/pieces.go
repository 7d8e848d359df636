package bucket

import "slices"

// dirtyRange is a range of a file with its bytes.
type dirtyRange struct {
	pos  int64
	data []byte
}

func (p dirtyRange) end() int64 { return p.pos + int64(len(p.data)) }

// dirtyRanges are ranges in ascending order that do not overlap.
type dirtyRanges []dirtyRange

// end is where the last one ends.
func (l dirtyRanges) end() int64 {
	if len(l) == 0 {
		return 0
	}
	return l[len(l)-1].end()
}

// size is how many bytes there are.
func (l dirtyRanges) size() int64 {
	n := int64(0)
	for _, p := range l {
		n += int64(len(p.data))
	}
	return n
}

// firstEndingAfter is the index of the first piece that ends after pos.
func (l dirtyRanges) firstEndingAfter(pos int64) int {
	i, _ := slices.BinarySearchFunc(l, pos, func(p dirtyRange, pos int64) int {
		if p.end() <= pos {
			return -1
		}
		return 1
	})
	return i
}

// overwrite puts data over whatever was in its range. The bytes are copied.
func (l dirtyRanges) overwrite(pos int64, data []byte) dirtyRanges {
	if len(data) == 0 {
		return l
	}
	end := pos + int64(len(data))
	i := l.firstEndingAfter(pos)
	if i < len(l) && l[i].pos <= pos && end <= l[i].end() {
		copy(l[i].data[pos-l[i].pos:], data)
		return l
	}
	// Behind the piece before, as a program does that writes from front to back.
	if i > 0 && l[i-1].end() == pos && len(l[i-1].data)+len(data) <= chunkSize && (i == len(l) || l[i].pos >= end) {
		l[i-1].data = append(l[i-1].data, data...)
		return l
	}
	l = l.removeRange(pos, end)
	i = l.firstEndingAfter(pos)
	return slices.Insert(l, i, dirtyRange{pos, slices.Clone(data)})
}

// removeRange takes a range out.
func (l dirtyRanges) removeRange(pos, end int64) dirtyRanges {
	var out dirtyRanges
	for _, p := range l {
		if p.end() <= pos || p.pos >= end {
			out = append(out, p)
			continue
		}
		if p.pos < pos {
			out = append(out, dirtyRange{p.pos, p.data[: pos-p.pos : pos-p.pos]})
		}
		if p.end() > end {
			out = append(out, dirtyRange{end, p.data[end-p.pos:]})
		}
	}
	return out
}

// read copies what lies in the range of p, which begins at pos.
func (l dirtyRanges) read(p []byte, pos int64) {
	for _, x := range l[l.firstEndingAfter(pos):] {
		if x.pos >= pos+int64(len(p)) {
			return
		}
		if x.pos >= pos {
			copy(p[x.pos-pos:], x.data)
		} else {
			copy(p, x.data[pos-x.pos:])
		}
	}
}

// mergeOver returns both lists, where they overlap with the bytes of l.
func (l dirtyRanges) mergeOver(below dirtyRanges) dirtyRanges {
	for _, p := range l {
		below = below.overwrite(p.pos, p.data)
	}
	return below
}
