package ext4

import (
	"bytes"
	"io"
)

// readContent reads the content of a file as io.ReaderAt does.
func (fs *FS) readContent(i *inode, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errInvalid
	}
	size := i.size()
	if off >= size {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > size-off {
		p, eof = p[:size-off], io.EOF
	}
	if i.hasFlag(flagInline) {
		data, err := fs.readInlineData(i)
		if err != nil {
			return 0, err
		}
		clear(p[copy(p, data[min(off, int64(len(data))):]):])
		return len(p), eof
	}
	blockSize := fs.sb.blockSize
	for done := 0; done < len(p); {
		at := off + int64(done)
		logical, offInBlock := uint32(at/blockSize), at%blockSize
		ext, err := fs.lookupExtent(i, logical)
		if err != nil {
			return done, err
		}
		n := int(min(int64(ext.endBlock()-uint64(logical))*blockSize-offInBlock, int64(len(p)-done)))
		part := p[done : done+n]
		if ext.start == 0 || ext.unwritten {
			clear(part)
		} else if err := fs.readDataBlocks(part, int64(ext.start+uint64(logical-ext.logical))*blockSize+offInBlock); err != nil {
			return done, err
		}
		done += n
	}
	return len(p), eof
}

// readDataBlocks reads file data from the device. Newer data in memory, which is delayed
// or part of a transaction or of a replayed log, wins.
func (fs *FS) readDataBlocks(p []byte, at int64) error {
	if err := readFull(fs.dev, p, at); err != nil {
		return err
	}
	fs.delayed.overlayDelayed(p, at)
	if len(fs.journaledTails) == 0 && len(fs.replayedBlocks) == 0 {
		return nil
	}
	blockSize := fs.sb.blockSize
	for n := at / blockSize; n*blockSize < at+int64(len(p)); n++ {
		_, tail := fs.journaledTails[uint64(n)]
		_, replayed := fs.replayedBlocks[uint64(n)]
		if !tail && !replayed {
			continue
		}
		b, err := fs.getBlock(uint64(n))
		if err != nil {
			return err
		}
		if s := n*blockSize - at; s >= 0 {
			copy(p[s:], b.data)
		} else {
			copy(p, b.data[-s:])
		}
	}
	return nil
}

// overwriteData writes over mapped blocks of a file. A block that is in a transaction is
// changed there: the log would bring back its old content otherwise.
func (fs *FS) overwriteData(p []byte, at int64) error {
	fs.tx.hasData = true
	if err := fs.flushDelayedData(); err != nil {
		return err
	}
	if len(fs.journaledTails) == 0 {
		_, err := fs.dev.WriteAt(p, at)
		return err
	}
	blockSize := fs.sb.blockSize
	for len(p) > 0 {
		block := uint64(at / blockSize)
		n := int(min(blockSize-at%blockSize, int64(len(p))))
		if _, ok := fs.journaledTails[block]; ok {
			b, err := fs.modifyBlock(block)
			if err != nil {
				return err
			}
			copy(b[at%blockSize:], p[:n])
		} else {
			for n < len(p) {
				if _, ok := fs.journaledTails[uint64((at+int64(n))/blockSize)]; ok {
					break
				}
				n += int(min(blockSize, int64(len(p)-n)))
			}
			if _, err := fs.dev.WriteAt(p[:n], at); err != nil {
				return err
			}
		}
		p, at = p[n:], at+int64(n)
	}
	return nil
}

// zeroBlockPart makes bytes from..to-1 of one block of a file read as zeros, as part of
// the transaction: the device changes only once that is committed, so a crash restores the
// old content with the old size.
func (fs *FS) zeroBlockPart(i *inode, from, to int64) error {
	blockSize := fs.sb.blockSize
	if from >= to {
		return nil
	}
	logical := uint32(from / blockSize)
	e, err := fs.lookupExtent(i, logical)
	if err != nil || e.start == 0 || e.unwritten {
		return err
	}
	n := e.start + uint64(logical-e.logical)
	from, to = from-int64(logical)*blockSize, to-int64(logical)*blockSize
	buf := make([]byte, to-from)
	if err := fs.readDataBlocks(buf, int64(n)*blockSize+from); err != nil || isAllZero(buf) {
		return err
	}
	if err := fs.flushDelayedData(); err != nil {
		return err
	}
	fs.journaledTails[n] = struct{}{}
	b, err := fs.modifyBlock(n)
	if err != nil {
		return err
	}
	clear(b[from:to])
	return nil
}

// writeContent writes to a file as much as one operation may, and returns how much it
// wrote, also with an error. It allocates space for holes. The caller stores the inode.
func (fs *FS) writeContent(i *inode, p []byte, off int64) (int, error) {
	if !i.hasFlag(flagExtents) {
		return 0, unsupportedf("writing to inode %d, which has no extents", i.num)
	}
	blockSize := fs.sb.blockSize
	if off < 0 || off > maxLogical*blockSize-int64(len(p)) {
		return 0, errTooBig
	}
	if size := i.size(); off > size {
		// Old bytes in the last block beyond the end must not appear in the gap.
		if err := fs.zeroBlockPart(i, size, min(roundUpTo(size, blockSize), off)); err != nil {
			return 0, err
		}
	}
	done := 0
	for done < len(p) && (done == 0 || !fs.operationFull()) {
		n, err := fs.writeOneExtent(i, p[done:], off+int64(done))
		if err != nil {
			return done, err
		}
		done += n
	}
	if end := off + int64(done); end > i.size() {
		fs.setFileSize(i, end)
	}
	fs.setTimesToNow(i, stampMtime, stampCtime)
	return done, nil
}

// isAllZero reports whether b holds only zeros.
func isAllZero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeros))
		if !bytes.Equal(b[:n], zeros[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

// roundUpTo rounds n up to a multiple of to.
func roundUpTo(n, to int64) int64 { return (n + to - 1) / to * to }

// writeOneExtent writes at most what one extent, or one newly allocated run, can take.
func (fs *FS) writeOneExtent(i *inode, p []byte, off int64) (int, error) {
	blockSize := fs.sb.blockSize
	logical, offInBlock := uint32(off/blockSize), off%blockSize
	ext, err := fs.lookupExtent(i, logical)
	if err != nil {
		return 0, err
	}
	room := int64(ext.endBlock()-uint64(logical))*blockSize - offInBlock
	n := int(min(room, int64(len(p))))
	p = p[:n]
	blocks := uint32((offInBlock + int64(n) + blockSize - 1) / blockSize)
	switch {
	case ext.start == 0: // a hole: allocate, write, then map
		r, err := fs.allocBlocks(fs.chooseBlockGoal(i, logical), blocks)
		if err != nil {
			return 0, err
		}
		n = int(min(int64(n), int64(r.n)*blockSize-offInBlock))
		if err := fs.writeNewBlocks(p[:n], int64(r.start)*blockSize, offInBlock); err != nil {
			return 0, err
		}
		fs.changeBlockCount(i, int64(r.n))
		return n, fs.insertExtent(i, extent{logical: logical, n: r.n, start: r.start})
	case ext.unwritten:
		if err := fs.writeNewBlocks(p, int64(ext.start+uint64(logical-ext.logical))*blockSize, offInBlock); err != nil {
			return 0, err
		}
		return n, fs.convertUnwritten(i, ext, logical, blocks)
	}
	return n, fs.overwriteData(p, int64(ext.start+uint64(logical-ext.logical))*blockSize+offInBlock)
}

// writeNewBlocks writes whole blocks whose old content is irrelevant: p at offset offInBlock of
// the first one, and zeros around it. Small writes are delayed.
func (fs *FS) writeNewBlocks(p []byte, at, offInBlock int64) error {
	blockSize := fs.sb.blockSize
	fs.tx.hasData = true
	fs.forgetJournaledTails(uint64(at/blockSize), uint64(roundUpTo(offInBlock+int64(len(p)), blockSize)/blockSize))
	whole := int64(len(p)) / blockSize * blockSize
	if offInBlock == 0 && whole > maxDelayedWrite {
		if err := fs.flushDelayedData(); err != nil {
			return err
		}
		if _, err := fs.dev.WriteAt(p[:whole], at); err != nil {
			return err
		}
		if p, at = p[whole:], at+whole; len(p) == 0 {
			return nil
		}
	}
	return fs.delayWrite(p, at, offInBlock)
}

// forgetJournaledTails makes n blocks from start on ordinary data blocks again. They may
// have been in a transaction for a file that used them before.
func (fs *FS) forgetJournaledTails(start, n uint64) {
	for k := range fs.journaledTails {
		if k >= start && k < start+n {
			fs.cache.replaceBlock(k, nil)
			delete(fs.journaledTails, k)
		}
	}
}

// delayedData is data for newly allocated blocks whose write is delayed, so that blocks of
// many small files become one write. It is written before the transaction that maps the
// blocks commits, before any other data, and when another range begins. Guarded by mu.
type delayedData struct {
	at  int64 // where it goes
	buf []byte
}

// maxDelayedWrite is the largest piece of data that is held back, in bytes.
const maxDelayedWrite = 128 << 10

// delayWrite adds p, padded with zeros to whole blocks, to the delayed data.
func (fs *FS) delayWrite(p []byte, at, offInBlock int64) error {
	w := &fs.delayed
	n := int(roundUpTo(offInBlock+int64(len(p)), fs.sb.blockSize))
	if len(w.buf) > 0 && (at != w.at+int64(len(w.buf)) || len(w.buf)+n > maxOperationBytes) {
		if err := fs.flushDelayedData(); err != nil {
			return err
		}
	}
	if len(w.buf) == 0 {
		w.at = at
	}
	if w.buf == nil {
		w.buf = make([]byte, 0, maxOperationBytes)
	}
	end := len(w.buf) + n
	w.buf = append(w.buf, zeros[:offInBlock]...)
	w.buf = append(w.buf, p...)
	for len(w.buf) < end {
		w.buf = append(w.buf, zeros[:min(len(zeros), end-len(w.buf))]...)
	}
	return nil
}

// flushDelayedData writes the delayed data. Other data is written only afterwards, so that
// the last writer of a block wins. A failure, such as a full host disk, loses nothing: the
// data stays in memory and the next commit tries again. mu is held alone.
func (fs *FS) flushDelayedData() error {
	w := &fs.delayed
	if len(w.buf) == 0 {
		return nil
	}
	if _, err := fs.dev.WriteAt(w.buf, w.at); err != nil {
		return err
	}
	w.buf = w.buf[:0]
	return nil
}

// overlayDelayed copies delayed data over p, which was read from the device at offset at.
func (w *delayedData) overlayDelayed(p []byte, at int64) {
	lo, hi := max(at, w.at), min(at+int64(len(p)), w.at+int64(len(w.buf)))
	if lo < hi {
		copy(p[lo-at:hi-at], w.buf[lo-w.at:])
	}
}

// chooseBlockGoal returns where a new block of a file should lie: after the block before
// it.
func (fs *FS) chooseBlockGoal(i *inode, logical uint32) uint64 {
	if logical > 0 {
		if e, err := fs.lookupExtent(i, logical-1); err == nil && e.start != 0 {
			return e.start + uint64(logical-e.logical)
		}
	}
	g := (i.num - 1) / fs.sb.inodesPerGroup
	return fs.sb.groupStart(g) + uint64(fs.allocHints[g])
}
