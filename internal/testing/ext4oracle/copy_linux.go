package ext4oracle

import (
	"errors"
	"io"
	"os"
)

// CopyImage copies an image, which may be in use, and keeps its holes.
func CopyImage(dst, src string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(dst)
	if err != nil {
		return err
	}
	return errors.Join(copySparseFile(out, in), out.Close())
}

// copySparseFile copies the data ranges of a file.
func copySparseFile(out, in *os.File) error {
	info, err := in.Stat()
	if err != nil {
		return err
	}
	data, err := dataRanges(in, info.Size())
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for _, r := range data {
		to := io.NewOffsetWriter(out, r.Off)
		// Without ReadFrom, which could share the space of files in use.
		if _, err := io.CopyBuffer(struct{ io.Writer }{to}, io.NewSectionReader(in, r.Off, r.Len), buf); err != nil {
			return err
		}
	}
	return out.Truncate(info.Size())
}
