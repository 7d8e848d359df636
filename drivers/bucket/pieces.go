package bucket

import "slices"

// piece is a range of a file with its bytes.
type piece struct {
	pos  int64
	data []byte
}

func (p piece) end() int64 { return p.pos + int64(len(p.data)) }

// pieces are ranges in ascending order that do not overlap.
type pieces []piece

// end is where the last one ends.
func (l pieces) end() int64 {
	if len(l) == 0 {
		return 0
	}
	return l[len(l)-1].end()
}

// size is how many bytes there are.
func (l pieces) size() int64 {
	n := int64(0)
	for _, p := range l {
		n += int64(len(p.data))
	}
	return n
}

// first is the index of the first piece that ends after pos.
func (l pieces) first(pos int64) int {
	i, _ := slices.BinarySearchFunc(l, pos, func(p piece, pos int64) int {
		if p.end() <= pos {
			return -1
		}
		return 1
	})
	return i
}

// write puts data over whatever was in its range. The bytes are copied.
func (l pieces) write(pos int64, data []byte) pieces {
	if len(data) == 0 {
		return l
	}
	end := pos + int64(len(data))
	i := l.first(pos)
	if i < len(l) && l[i].pos <= pos && end <= l[i].end() {
		copy(l[i].data[pos-l[i].pos:], data)
		return l
	}
	// Behind the piece before, as a program does that writes from front to back.
	if i > 0 && l[i-1].end() == pos && len(l[i-1].data)+len(data) <= chunkSize && (i == len(l) || l[i].pos >= end) {
		l[i-1].data = append(l[i-1].data, data...)
		return l
	}
	l = l.cut(pos, end)
	i = l.first(pos)
	return slices.Insert(l, i, piece{pos, slices.Clone(data)})
}

// cut takes a range out.
func (l pieces) cut(pos, end int64) pieces {
	var out pieces
	for _, p := range l {
		if p.end() <= pos || p.pos >= end {
			out = append(out, p)
			continue
		}
		if p.pos < pos {
			out = append(out, piece{p.pos, p.data[: pos-p.pos : pos-p.pos]})
		}
		if p.end() > end {
			out = append(out, piece{end, p.data[end-p.pos:]})
		}
	}
	return out
}

// read copies what lies in the range of p, which begins at pos.
func (l pieces) read(p []byte, pos int64) {
	for _, x := range l[l.first(pos):] {
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

// over returns both lists, where they overlap with the bytes of l.
func (l pieces) over(below pieces) pieces {
	for _, p := range l {
		below = below.write(p.pos, p.data)
	}
	return below
}
