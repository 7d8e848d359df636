package ext4

import (
	"errors"
	"fmt"
	"hash"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

const (
	fmtMiB   = int64(1) << 20
	fmtGiB   = int64(1) << 30
	fmtTiB   = int64(1) << 40
	fmtGroup = int64(defaultPer) * defaultBlock
)

// lookupFormatTool returns the path of a program of e2fsprogs or skips the test.
func lookupFormatTool(t testing.TB, name string) string {
	t.Helper()
	for _, at := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		if p, err := exec.LookPath(at); err == nil {
			return p
		}
	}
	t.Skipf("no %s", name)
	return ""
}

// newSparseFile makes a sparse file that is removed with the test.
func newSparseFile(t testing.TB, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); errors.Is(err, syscall.EFBIG) {
		t.Skipf("this file system has no files of %d bytes", size)
	} else if err != nil {
		t.Fatal(err)
	}
	return f
}

// formatImage makes an image and returns its path.
func formatImage(t testing.TB, size int64, opts FormatOptions) string {
	t.Helper()
	whole := (size + defaultBlock - 1) / defaultBlock * defaultBlock
	f := newSparseFile(t, whole)
	got, err := Format(f, size, opts)
	if err != nil {
		t.Fatalf("Format(%d, %+v): %v", size, opts, err)
	}
	if got != whole {
		t.Fatalf("Format(%d) says it used %d, want %d", size, got, whole)
	}
	if st, err := f.Stat(); err != nil || st.Size() != whole {
		t.Fatalf("Format(%d) changed the size of the file to %d (%v)", size, st.Size(), err)
	}
	f.Close()
	return f.Name()
}

var fmtFine = regexp.MustCompile(`^(e2fsck .*|Pass \d[A-Z]?: .*|\S+: \d+/\d+ files \(.*\), \d+/\d+ blocks|)$`)

// runFsck fails the test unless e2fsck finds an image clean.
func runFsck(t testing.TB, image string) {
	t.Helper()
	out, err := exec.Command(lookupFormatTool(t, "e2fsck"), "-fn", image).CombinedOutput()
	bad := err != nil
	for line := range strings.Lines(string(out)) {
		bad = bad || !fmtFine.MatchString(strings.TrimRight(line, "\n"))
	}
	if bad {
		t.Errorf("e2fsck -fn: %v\n%s", err, out)
	}
}

// dumpe2fsFields returns what dumpe2fs says of an image's superblock.
func dumpe2fsFields(t testing.TB, image string) map[string]string {
	t.Helper()
	cmd := exec.Command(lookupFormatTool(t, "dumpe2fs"), "-h", image)
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("dumpe2fs: %v", err)
	}
	m := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			m[k] = strings.TrimSpace(v)
		}
	}
	return m
}

// runDebugfs returns what debugfs answers to a command.
func runDebugfs(t testing.TB, image, command string) string {
	t.Helper()
	cmd := exec.Command(lookupFormatTool(t, "debugfs"), "-R", command, image)
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("debugfs %q: %v", command, err)
	}
	return string(out)
}

// initialFileBlocks is how many blocks an empty file system of so many bytes holds that Linux does not
// count as its own: directories, and the tree of the resize inode.
func initialFileBlocks(size int64) int64 {
	if size >= fmtTiB {
		return 1 + lostBlocks
	}
	return 2 + lostBlocks
}

const fmtFeatures = "ext_attr resize_inode dir_index filetype extent 64bit flex_bg sparse_super " +
	"large_file huge_file dir_nlink extra_isize metadata_csum"

// judgeFormat checks an image of size bytes with e2fsck and dumpe2fs.
func judgeFormat(t *testing.T, image string, size int64) {
	t.Helper()
	runFsck(t, image)
	d := dumpe2fsFields(t, image)
	features := fmtFeatures
	if size >= fmtTiB {
		features = strings.NewReplacer("resize_inode ", "", "extent", "meta_bg extent").Replace(features)
	}
	if size >= 8*fmtMiB {
		features = "has_journal " + features
	}
	for key, want := range map[string]string{
		"Filesystem features":     features,
		"Filesystem state":        "clean",
		"Block size":              "4096",
		"Inode size":              "256",
		"Group descriptor size":   "64",
		"Flex block group size":   "16",
		"Reserved block count":    "0",
		"Default directory hash":  "half_md4",
		"Maximum mount count":     "-1",
		"Checksum type":           "crc32c",
		"Filesystem revision #":   "1 (dynamic)",
		"Default mount options":   "user_xattr acl",
		"Errors behavior":         "Continue",
		"Filesystem magic number": "0xEF53",
		"Reserved blocks uid":     "0 (user root)",
		"Filesystem volume name":  "<none>",
		"Filesystem OS type":      "Linux",
		"First inode":             "11",
		"Required extra isize":    "32",
		"Desired extra isize":     "32",
		"Blocks per group":        "32768",
		"Check interval":          "0 (<none>)",
		"Last mount time":         "n/a",
		"Filesystem flags":        "signed_directory_hash",
		"Block count":             strconv.FormatInt(blocksOfSize(size), 10),
		"Journal backup":          map[bool]string{true: "inode blocks"}[size >= 8*fmtMiB],
		"Total journal blocks":    journalOfSize(size),
		"Journal features":        map[bool]string{true: "(none)"}[size >= 8*fmtMiB],
		"Journal inode":           map[bool]string{true: "8"}[size >= 8*fmtMiB],
		"Free inodes":             strconv.FormatInt(parseNumber(t, d["Inode count"])-firstInode, 10),
		"Overhead clusters":       strconv.FormatInt(blocksOfSize(size)-parseNumber(t, d["Free blocks"])-initialFileBlocks(size), 10),
		"Fragment size":           "4096",
		"Reserved blocks gid":     "0 (group root)",
		"Last mounted on":         "<not available>",
		"Mount count":             "0",
	} {
		if d[key] != want {
			t.Errorf("dumpe2fs: %q is %q, want %q", key, d[key], want)
		}
	}
}

// blocksOfSize returns how many blocks a file system of size bytes has, whose descriptors
// are few: without a last group that should have a backup of them and is too short.
func blocksOfSize(size int64) int64 {
	blocks := (size + defaultBlock - 1) / defaultBlock
	g := blocks / defaultPer
	descs := (g + 1 + 63) / 64
	if size >= fmtTiB {
		descs = 1
	}
	if rest := blocks % defaultPer; g > 0 && isSparseSuperGroup(uint32(g)) && rest < 1+descs+min(3*descs, 128) {
		blocks -= rest
	}
	return blocks
}

func journalOfSize(size int64) string {
	switch {
	case size < 8*fmtMiB:
		return ""
	case size < 128*fmtMiB:
		return "1024"
	case size < fmtGiB:
		return "4096"
	case size < 2*fmtGiB:
		return "8192"
	case size < 16*fmtGiB:
		return "16384"
	}
	return "32768"
}

func parseNumber(t *testing.T, s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Error(err)
	}
	return n
}

// A writeTally keeps of the writes where they were, sums of the blocks of all but the first if
// it shall, and a sum of them all likewise.
type writeTally struct {
	all    hash.Hash
	at     map[int64]int
	blocks map[int64]uint32
	supers map[int64][]byte
	syncs  int
	last   int64
}

func (w *writeTally) ReadAt([]byte, int64) (int, error) { return 0, errors.New("read") }
func (w *writeTally) Sync() error                       { w.syncs++; return nil }
func (w *writeTally) WriteAt(p []byte, off int64) (int, error) {
	if w.syncs > 0 {
		return 0, errors.New("a write after the Sync")
	}
	w.at[off], w.last = len(p), off
	if w.all != nil {
		fmt.Fprintf(w.all, "%d %d ", off, len(p))
		w.all.Write(p)
	}
	if w.blocks != nil {
		for n := 0; n < len(p); n += defaultBlock {
			w.blocks[off+int64(n)] = crc32c(0, p[n:][:defaultBlock])
		}
		if off%fmtGroup == 0 && le.Uint16(p[sbMagic:]) == superMagic {
			w.supers[off] = slices.Clone(p[:superSize])
		}
	}
	return len(p), nil
}

// randomSizeStep returns a size near which something changes: a group's end, the end of a
// flexible group, a last group that has a backup, or none.
func randomSizeStep(r *rand.Rand) int64 {
	groups := []int64{1, 2, 3, 4, 5, 7, 8, 9, 10, 15, 16, 17, 25, 26, 27, 32, 48, 49, 50, 63, 64, 65, 80, 81, 125, 128}
	var blocks int64
	switch r.IntN(5) {
	case 0:
		blocks = MinSize/defaultBlock + r.Int64N(3*defaultPer)
	case 1:
		blocks = groups[r.IntN(len(groups))]*defaultPer + r.Int64N(20) - 3
	case 2:
		blocks = groups[r.IntN(len(groups))]*defaultPer + r.Int64N(700)
	case 3:
		blocks = groups[r.IntN(len(groups))]*defaultPer - r.Int64N(700)
	default:
		blocks = MinSize/defaultBlock + r.Int64N(200*defaultPer)
	}
	return blocks * defaultBlock
}

// testRepairFromBackup has e2fsck repair an image whose superblock and descriptors are gone.
func testRepairFromBackup(t *testing.T, size int64) {
	t.Helper()
	image := formatImage(t, size, FormatOptions{})
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, 2*defaultBlock), 0); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(lookupFormatTool(t, "e2fsck"), "-fy", "-b", "32768", "-B", "4096", image).CombinedOutput()
	if code, ok := err.(*exec.ExitError); err != nil && (!ok || code.ExitCode() != 1) {
		t.Errorf("e2fsck -b: %v\n%s", err, out)
	}
	runFsck(t, image)
}
