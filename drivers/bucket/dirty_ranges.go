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

// end is the offset at which the last range ends; 0: there is none.
func (ranges dirtyRanges) end() int64 {
	if len(ranges) == 0 {
		return 0
	}
	return ranges[len(ranges)-1].end()
}

// firstEndingAfter returns the index of the first range that ends after pos.
func (ranges dirtyRanges) firstEndingAfter(pos int64) int {
	i, _ := slices.BinarySearchFunc(ranges, pos, func(p dirtyRange, pos int64) int {
		if p.end() <= pos {
			return -1
		}
		return 1
	})
	return i
}

// overwrite puts data at pos, over what was there. The bytes are copied.
func (ranges dirtyRanges) overwrite(pos int64, data []byte) dirtyRanges {
	if len(data) == 0 {
		return ranges
	}
	end := pos + int64(len(data))
	i := ranges.firstEndingAfter(pos)
	if i < len(ranges) && ranges[i].pos <= pos && end <= ranges[i].end() {
		copy(ranges[i].data[pos-ranges[i].pos:], data)
		return ranges
	}
	// Sequential writes extend the range before, up to a chunk.
	if i > 0 && ranges[i-1].end() == pos && len(ranges[i-1].data)+len(data) <= chunkSize && (i == len(ranges) || ranges[i].pos >= end) {
		ranges[i-1].data = append(ranges[i-1].data, data...)
		return ranges
	}
	ranges = ranges.removeRange(pos, end)
	i = ranges.firstEndingAfter(pos)
	return slices.Insert(ranges, i, dirtyRange{pos, slices.Clone(data)})
}

// removeRange returns the ranges without [pos, end).
func (ranges dirtyRanges) removeRange(pos, end int64) dirtyRanges {
	var out dirtyRanges
	for _, p := range ranges {
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

// mergeOver returns the union of both lists. Where they overlap, the bytes of ranges win over
// those of below.
func (ranges dirtyRanges) mergeOver(below dirtyRanges) dirtyRanges {
	for _, p := range ranges {
		below = below.overwrite(p.pos, p.data)
	}
	return below
}
