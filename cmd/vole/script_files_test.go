//go:build unix

package main

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/filemode"
)

func cmdSetmeta(ts *testscript.TestScript, neg bool, args []string) {
	file := ts.MkAbs(args[0])
	for _, kv := range args[1:] {
		k, v, _ := strings.Cut(kv, "=")
		var err error
		switch {
		case k == "mode":
			err = os.Chmod(file, filemode.Go(parseOctal(ts, v)))
		case k == "mtime":
			t := parseTime(ts, v)
			err = os.Chtimes(file, t, t)
		case k == "size":
			n, _ := strconv.ParseInt(v, 10, 64)
			err = os.Truncate(file, n)
		case strings.HasPrefix(k, "xattr:"):
			err = unix.Lsetxattr(file, strings.TrimPrefix(k, "xattr:"), []byte(v), 0)
		default:
			ts.Fatalf("unknown %q", k)
		}
		ts.Check(err)
	}
}

func cmdMeta(ts *testscript.TestScript, neg bool, args []string) {
	file := ts.MkAbs(args[0])
	info, err := os.Lstat(file)
	ts.Check(err)
	st := info.Sys().(*syscall.Stat_t)
	for _, kv := range args[1:] {
		k, want, _ := strings.Cut(kv, "=")
		got := ""
		switch {
		case k == "mode":
			got = fmt.Sprintf("%04o", filemode.Perm(info.Mode()))
		case k == "mtime":
			got, want = info.ModTime().UTC().Format(time.RFC3339Nano), parseTime(ts, want).UTC().Format(time.RFC3339Nano)
		case k == "nlink":
			got = fmt.Sprint(st.Nlink)
		case k == "uid":
			got = fmt.Sprint(st.Uid)
		case k == "type":
			got = filemode.TypeName(info.Mode())
		case k == "size":
			got = fmt.Sprint(info.Size())
		case k == "link":
			got, err = os.Readlink(file)
			ts.Check(err)
		case k == "alloc<":
			most, _ := strconv.ParseInt(want, 10, 64)
			if got = want; int64(st.Blocks)*512 > most {
				got = fmt.Sprint(int64(st.Blocks) * 512)
			}
		case strings.HasPrefix(k, "xattr:"):
			buf := make([]byte, 1024)
			n, err := unix.Lgetxattr(file, strings.TrimPrefix(k, "xattr:"), buf)
			ts.Check(err)
			got = string(buf[:n])
		default:
			ts.Fatalf("unknown %q", k)
		}
		if got != want {
			ts.Fatalf("%s: %s is %q, want %q", args[0], k, got, want)
		}
	}
}

// cmdCutgrow grows an image to a size in MiB, and stops as if killed after some writes.
func cmdCutgrow(ts *testscript.TestScript, neg bool, args []string) {
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_RDWR, 0)
	ts.Check(err)
	defer f.Close()
	size, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	writes, err := strconv.Atoi(args[2])
	ts.Check(err)
	if _, err := ext4.Grow(context.Background(), &cutFile{f, writes}, size<<20, ext4.GrowOptions{}); !errors.Is(err, errCut) {
		ts.Fatalf("the growth ended with %v", err)
	}
}

// cutFile is a file that takes some writes and no more.
type cutFile struct {
	*os.File
	writes int
}

var errCut = errors.New("cut off")

func (f *cutFile) WriteAt(p []byte, off int64) (int, error) {
	if f.writes--; f.writes < 0 {
		return 0, errCut
	}
	return f.File.WriteAt(p, off)
}

func parseOctal(ts *testscript.TestScript, s string) uint32 {
	n, err := strconv.ParseUint(s, 8, 32)
	ts.Check(err)
	return uint32(n)
}

func parseTime(ts *testscript.TestScript, s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	ts.Check(err)
	return t
}

// cmdMktar makes a tar file of a specification, one entry to a line:
//
//	file NAME TEXT      dir NAME MODE      symlink NAME TARGET    hard NAME TARGET
//	fifo NAME -         char NAME -        setuid NAME TEXT       owned NAME UID
//	xattr NAME VALUE    cont NAME TEXT     odd NAME TYPE
//	cut - N             end the file N bytes after its last entry began, without its end
//
// "%NxC" in a name is N times C.
func cmdMktar(ts *testscript.TestScript, neg bool, args []string) {
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	defer f.Close()
	tw := tar.NewWriter(f)
	last := int64(0)
	sc := bufio.NewScanner(strings.NewReader(ts.ReadFile(args[1])))
	for sc.Scan() {
		kind, name, text := "", "", ""
		if n, _ := fmt.Sscanf(sc.Text(), "%s %s %s", &kind, &name, &text); n < 3 {
			continue
		}
		if kind == "cut" {
			n, _ := strconv.ParseInt(text, 10, 64)
			ts.Check(tw.Flush())
			ts.Check(f.Truncate(last + n))
			return
		}
		ts.Check(tw.Flush())
		last, err = f.Seek(0, 1)
		ts.Check(err)
		hdr, body := tarEntry(kind, unfold(name), text)
		ts.Check(tw.WriteHeader(hdr))
		_, err := tw.Write([]byte(body))
		ts.Check(err)
	}
	ts.Check(tw.Close())
}

// unfold expands "%NxC".
func unfold(s string) string {
	before, rest, ok := strings.Cut(s, "%")
	if !ok {
		return s
	}
	n, c := 0, ""
	fmt.Sscanf(rest, "%dx%s", &n, &c)
	return before + strings.Repeat(c[:1], n) + c[1:]
}

func tarEntry(kind, name, text string) (*tar.Header, string) {
	h := &tar.Header{Name: name, Mode: 0o644, ModTime: time.Unix(1e9, 0), Typeflag: tar.TypeReg}
	body := ""
	switch kind {
	case "dir":
		h.Typeflag = tar.TypeDir
		h.Mode, _ = strconv.ParseInt(text, 8, 64)
	case "symlink":
		h.Typeflag, h.Linkname = tar.TypeSymlink, text
	case "hard":
		h.Typeflag, h.Linkname = tar.TypeLink, text
	case "fifo":
		h.Typeflag = tar.TypeFifo
	case "char":
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, 1, 3
	case "odd":
		h.Typeflag = text[0]
	case "setuid":
		h.Mode, body = 0o4755, text
	case "owned":
		h.Uid, _ = strconv.Atoi(text)
		h.Gid = h.Uid
	case "xattr":
		h.PAXRecords, h.Format = map[string]string{"SCHILY.xattr.user.k": text}, tar.FormatPAX
	default:
		body = text
	}
	if h.Typeflag == tar.TypeReg {
		h.Size = int64(len(body))
	}
	return h, body
}
