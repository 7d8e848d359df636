// Package imagekind tells the format of a file that was expected to be an ext4 image, by
// the magic numbers in its first and last bytes, and finds the partitions of a disk.
package imagekind

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
)

// Class says what can be done with a file.
type Class int

// The classes of kinds.
const (
	Unknown     Class = iota
	Ext4              // ext2, ext3 or ext4
	Empty             // nothing, or zeros where all formats have something
	VirtualDisk       // a format of virtual machines, which qemu-img converts to a raw image
	Compressed        // to be decompressed first
	Tar               // an archive of files, of which Vole makes volumes
	Archive           // another one, to be unpacked first
	Partitioned       // a disk with a partition table
	FileSystem        // another file system
	Layer             // a layer that a file system lies in: encryption, logical volumes
	NoFiles           // what never holds files
)

// Kind is the format of a file.
type Kind struct {
	Name  string // for people: "qcow2", "an XFS file system"
	Class Class
	Tool  string // command that makes a raw image of it; "": there is none, or it is not needed
}

// HeadSize is how many bytes at the beginning of a file Identify reads.
const HeadSize = 128 << 10

// signature is a magic number at an offset.
type signature struct {
	at    int
	magic string
	kind  Kind
}

// signatures are tried in order: formats that may contain another one further on come
// first.
var signatures = []signature{
	{0, "QFI\xfb", Kind{"qcow2", VirtualDisk, "qemu-img convert -O raw"}},
	{0, "QED\x00", Kind{"QED", VirtualDisk, "qemu-img convert -O raw"}},
	{0, "KDMV", Kind{"VMDK", VirtualDisk, "qemu-img convert -O raw"}},
	{0, "COWD", Kind{"VMDK", VirtualDisk, "qemu-img convert -O raw"}},
	{0, "# Disk DescriptorFile", Kind{"a VMDK descriptor", VirtualDisk, "qemu-img convert -O raw"}},
	{0, "vhdxfile", Kind{"VHDX", VirtualDisk, "qemu-img convert -O raw"}},
	{0, "conectix", Kind{"VHD", VirtualDisk, "qemu-img convert -O raw"}},
	{0x40, "\x7f\x10\xda\xbe", Kind{"VDI", VirtualDisk, "qemu-img convert -O raw"}},
	{0, "WithoutFreeSpace", Kind{"a disk of Parallels", VirtualDisk, "qemu-img convert -O raw"}},
	{0, "WithouFreSpacExt", Kind{"a disk of Parallels", VirtualDisk, "qemu-img convert -O raw"}},
	{0, "\x3a\xff\x26\xed", Kind{"an Android sparse image", VirtualDisk, "simg2img"}},
	{0, "\xfd7zXZ\x00", Kind{"xz", Compressed, "xz -dc"}},
	{0, "\x1f\x8b", Kind{"gzip", Compressed, "gzip -dc"}},
	{0, "BZh", Kind{"bzip2", Compressed, "bzip2 -dc"}},
	{0, "\x28\xb5\x2f\xfd", Kind{"zstd", Compressed, "zstd -dc"}},
	{0, "\x04\x22\x4d\x18", Kind{"lz4", Compressed, "lz4 -dc"}},
	{0, "\x89LZO\x00", Kind{"lzop", Compressed, "lzop -dc"}},
	{0, "\x1f\x9d", Kind{"compress", Compressed, "gzip -dc"}},
	{0, "LZIP", Kind{"lzip", Compressed, "lzip -dc"}},
	{0, "\x5d\x00\x00", Kind{"lzma", Compressed, "xz -dc"}},
	{0, "PK\x03\x04", Kind{"a zip archive", Archive, ""}},
	{0, "7z\xbc\xaf\x27\x1c", Kind{"a 7z archive", Archive, ""}},
	{0, "Rar!\x1a\x07", Kind{"a rar archive", Archive, ""}},
	{0, "070701", Kind{"a cpio archive", Archive, ""}},
	{0, "070707", Kind{"a cpio archive", Archive, ""}},
	{0, "\x7fELF", Kind{"a program", NoFiles, ""}},
	{257, "ustar", Kind{"a tar archive", Tar, ""}},
	{0, "LUKS\xba\xbe", Kind{"an encrypted device (LUKS)", Layer, ""}},
	{512, "LABELONE", Kind{"a physical volume of LVM", Layer, ""}},
	{0, "XFSB", Kind{"an XFS file system", FileSystem, ""}},
	{0, "hsqs", Kind{"a squashfs file system", FileSystem, ""}},
	{0, "-rom1fs-", Kind{"a romfs file system", FileSystem, ""}},
	{3, "NTFS    ", Kind{"an NTFS file system", FileSystem, ""}},
	{3, "EXFAT   ", Kind{"an exFAT file system", FileSystem, ""}},
	{32, "NXSB", Kind{"an APFS file system", FileSystem, ""}},
	{54, "FAT1", Kind{"a FAT file system", FileSystem, ""}},
	{82, "FAT32", Kind{"a FAT file system", FileSystem, ""}},
	{1080, "\x53\xef", Kind{"an ext4 file system", Ext4, ""}},
	{1024, "\xe2\xe1\xf5\xe0", Kind{"an EROFS file system", FileSystem, ""}},
	{1024, "\x10\x20\xf5\xf2", Kind{"an F2FS file system", FileSystem, ""}},
	{1024, "H+\x00", Kind{"an HFS+ file system", FileSystem, ""}},
	{1030, "\x34\x34", Kind{"a NILFS file system", FileSystem, ""}},
	{4086, "SWAPSPACE2", Kind{"swap space", NoFiles, ""}},
	{4086, "SWAP-SPACE", Kind{"swap space", NoFiles, ""}},
	{32769, "CD001", Kind{"an ISO 9660 image", FileSystem, ""}},
	{32769, "BEA01", Kind{"a UDF file system", FileSystem, ""}},
	{32768, "JFS1", Kind{"a JFS file system", FileSystem, ""}},
	{0x10034, "ReIsEr", Kind{"a ReiserFS file system", FileSystem, ""}},
	{0x10040, "_BHRfS_M", Kind{"a Btrfs file system", FileSystem, ""}},
	{512, "EFI PART", Kind{"a disk with a partition table (GPT)", Partitioned, ""}},
	{4096, "EFI PART", Kind{"a disk with a partition table (GPT)", Partitioned, ""}},
}

// footers are magic numbers of formats that begin like the disk that they contain, at a
// distance from the end of the file. They are tried if nothing else matches.
var footers = []signature{
	{512, "conectix", Kind{"VHD", VirtualDisk, "qemu-img convert -O raw"}},
	{511, "conectix", Kind{"VHD", VirtualDisk, "qemu-img convert -O raw"}}, // of Virtual PC before 2007
	{512, "koly", Kind{"a disk image of macOS (DMG)", VirtualDisk, "qemu-img convert -O raw"}},
}

// Identify tells the format of a file of size bytes (0: unknown) by its first [HeadSize]
// bytes and its last 512. The zero Kind means that it is unknown.
func Identify(r io.ReaderAt, size int64) (Kind, error) {
	head := make([]byte, HeadSize)
	n, err := r.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Kind{}, err
	}
	head = head[:n]
	for _, s := range signatures {
		if len(head) >= s.at+len(s.magic) && string(head[s.at:s.at+len(s.magic)]) == s.magic {
			return s.kind, nil
		}
	}
	if len(head) == 0 {
		return Kind{"empty", Empty, ""}, nil
	}
	if len(head) >= mbrSector {
		if entries := parseMBREntries(head[:mbrSector]); slices.ContainsFunc(entries, mbrEntry.isProtective) {
			return Kind{"a disk with a partition table (GPT)", Partitioned, ""}, nil
		} else if len(entries) > 0 {
			return Kind{"a disk with a partition table (MBR)", Partitioned, ""}, nil
		}
	}
	switch k, err := identifyByFooter(r, size); {
	case err != nil || k.Name != "":
		return k, err
	case len(bytes.Trim(head, "\x00")) == 0:
		return Kind{"nothing but zeros", Empty, ""}, nil
	}
	return Kind{}, nil
}

// identifyByFooter tells the format of a file by its end: a footer, or the backup of a
// partition table whose primary copy is lost.
func identifyByFooter(r io.ReaderAt, size int64) (Kind, error) {
	end := make([]byte, 512)
	if size < int64(len(end)) {
		return Kind{}, nil
	}
	if _, err := r.ReadAt(end, size-int64(len(end))); err != nil && !errors.Is(err, io.EOF) {
		return Kind{}, err
	}
	for _, s := range footers {
		if strings.HasPrefix(string(end[len(end)-s.at:]), s.magic) {
			return s.kind, nil
		}
	}
	if _, ok := readBackupGPT(r, size); ok {
		return Kind{"a disk with a partition table (GPT)", Partitioned, ""}, nil
	}
	return Kind{}, nil
}
