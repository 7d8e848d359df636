//go:build linux

package ext4_test

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

var fastScenes = []fastScene{
	{name: "create", act: func(d fastDir) { d.writeFile("a", 10); d.writeFile("b", 100000) }},
	{name: "append", before: func(d fastDir) { d.writeFile("a", 5000) }, act: func(d fastDir) { d.writeAt("a", 5000, 50000); d.writeAt("a", 1<<20, 4096) }},
	{name: "link", before: func(d fastDir) { d.writeFile("a", 10) }, act: func(d fastDir) { d.link("a", "b"); d.fsyncFile("b") }},
	{name: "unlink", before: func(d fastDir) { d.writeFile("a", 100000); d.writeFile("b", 1) },
		act: func(d fastDir) { d.remove("a"); d.writeFile("b", 2) }},
	{name: "unlink one of two", before: func(d fastDir) { d.writeFile("a", 100); d.link("a", "b") },
		act: func(d fastDir) { d.remove("a"); d.fsyncFile("b") }},
	{name: "create and remove", act: func(d fastDir) { d.writeFile("a", 8192); d.remove("a"); d.writeFile("b", 1) }},
	{name: "rename", before: func(d fastDir) { d.writeFile("a", 10) }, act: func(d fastDir) { d.rename("a", "b"); d.fsyncFile("b") }},
	{name: "rename over", before: func(d fastDir) { d.writeFile("a", 10000); d.writeFile("b", 20000) },
		act: func(d fastDir) { d.rename("a", "b"); d.fsyncFile("b") }},
	{name: "new over old", before: func(d fastDir) { d.writeFile("a", 10000) },
		act: func(d fastDir) { d.writeFile("tmp", 5000); d.rename("tmp", "a"); d.fsyncFile("a") }},
	{name: "across directories", before: func(d fastDir) { d.mkdir("x"); d.mkdir("y"); d.writeFile("x/a", 10) },
		act: func(d fastDir) { d.rename("x/a", "y/b"); d.fsyncFile("y/b") }},
	{name: "truncate", before: func(d fastDir) { d.writeFile("a", 1<<20) },
		act: func(d fastDir) { d.failOnError(os.Truncate(d.fullPath("a"), 12345)); d.fsyncFile("a") }},
	{name: "truncate to nothing", before: func(d fastDir) { d.writeFile("a", 1<<20) },
		act: func(d fastDir) { d.failOnError(os.Truncate(d.fullPath("a"), 0)); d.writeAt("a", 0, 9000) }},
	{name: "preallocate", act: func(d fastDir) { d.punch("a", 0, 0, 1<<20); d.writeAt("a", 65536, 10000) }},
	{name: "punch", before: func(d fastDir) { d.writeFile("a", 1<<20) },
		act: func(d fastDir) { d.punch("a", unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 100000, 300000) }},
	{name: "mkdir", act: func(d fastDir) { d.mkdir("x"); d.mkdir("x/y"); d.writeFile("x/y/a", 100); d.writeFile("x/b", 1) }, kernelErrs: true},
	{name: "rmdir", before: func(d fastDir) { d.mkdir("x"); d.writeFile("x/a", 1); d.writeFile("b", 1) },
		act: func(d fastDir) { d.remove("x/a"); d.remove("x"); d.writeFile("b", 2) }, kernelErrs: true},
	{name: "rename a directory", before: func(d fastDir) { d.mkdir("x"); d.writeFile("x/a", 1) },
		act: func(d fastDir) { d.rename("x", "y"); d.writeFile("y/a", 2) }, kernelErrs: true},
	{name: "symlink", act: func(d fastDir) { d.failOnError(os.Symlink("target", d.fullPath("s"))); d.writeFile("a", 1) }, kernelErrs: true},
	{name: "node", act: func(d fastDir) {
		d.failOnError(unix.Mknod(d.fullPath("n"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
		d.writeFile("a", 1)
	}, kernelErrs: true},
	{name: "mode", before: func(d fastDir) { d.writeFile("a", 1) }, act: func(d fastDir) {
		d.failOnError(os.Chmod(d.fullPath("a"), 0o4711))
		d.failOnError(os.Chown(d.fullPath("a"), 70000, 80000))
		d.fsyncFile("a")
	}},
	{name: "many", before: func(d fastDir) { d.mkdir("x") }, act: func(d fastDir) {
		for k := range 75 {
			d.failOnError(os.WriteFile(d.fullPath(fmt.Sprintf("x/a name so long that a block has no room for all of them %d", k)), []byte("small"), 0o600))
		}
		for k := range 25 {
			d.remove(fmt.Sprintf("x/a name so long that a block has no room for all of them %d", 3*k))
		}
		d.writeFile("x/last", 1)
	}},
	{name: "holes", act: func(d fastDir) {
		for k := range 40 {
			d.writeAt("a", int64(k)*16384, 4096)
		}
	}},
	{name: "no checksums", mke2fs: []string{"-O", "fast_commit,^metadata_csum"}, before: func(d fastDir) { d.writeFile("a", 10) },
		act: func(d fastDir) { d.writeFile("b", 100000); d.rename("b", "a"); d.fsyncFile("a") }},
	{name: "32 bit", mke2fs: []string{"-O", "fast_commit,^metadata_csum,^64bit"}, act: func(d fastDir) { d.writeFile("b", 100000) }},
	{name: "open without a name", before: func(d fastDir) { d.writeFile("a", 50000) }, act: func(d fastDir) {
		f, err := os.Open(d.fullPath("a"))
		d.failOnError(err)
		*d.open = append(*d.open, f)
		d.remove("a")
		d.writeFile("b", 2)
	}, kernelErrs: true},
	{name: "named late", act: func(d fastDir) {
		fd, err := unix.Open(d.path, unix.O_TMPFILE|unix.O_RDWR, 0o600)
		d.failOnError(err)
		f := os.NewFile(uintptr(fd), "")
		_, err = f.WriteString("text")
		d.failOnError(errors.Join(err, f.Sync()))
		d.failOnError(unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, d.fullPath("t"), unix.AT_SYMLINK_FOLLOW))
		d.failOnError(errors.Join(f.Sync(), f.Close()))
		d.writeFile("b", 2)
	}, kernelErrs: true},
	{name: "mapped by a tree", before: func(d fastDir) {
		for k := range 20 {
			d.writeAt("a", int64(k)*16384, 4096)
		}
	}, act: func(d fastDir) {
		for k := range 20 {
			d.writeAt("a", int64(2*k+1)*8192, 4096)
		}
		d.failOnError(os.Truncate(d.fullPath("a"), 100000))
		d.fsyncFile("a")
	}},
	{name: "many commits", act: func(d fastDir) {
		for k := range 60 {
			d.writeFile(fmt.Sprintf("f%d", k), k*1000)
			if k%3 == 2 {
				d.rename(fmt.Sprintf("f%d", k), fmt.Sprintf("f%d", k-1))
				d.remove(fmt.Sprintf("f%d", k-2))
			}
		}
		d.writeFile("last", 1)
	}},
	{name: "inodes of many blocks", before: func(d fastDir) {
		for k := range 800 {
			d.failOnError(os.WriteFile(d.fullPath(fmt.Sprintf("f%d", k)), nil, 0o600))
		}
	}, act: func(d fastDir) {
		for k := range 50 {
			d.failOnError(os.Chmod(d.fullPath(fmt.Sprintf("f%d", 16*k)), 0o644))
		}
		d.writeFile("last", 1)
	}},
	{name: "not in the log", remount: true, before: func(d fastDir) {
		for _, dir := range []string{"x", "y"} {
			d.mkdir(dir)
			for k := range 100 {
				d.failOnError(os.WriteFile(d.fullPath(fmt.Sprintf("%s/f%d", dir, k)), make([]byte, 100*k), 0o600))
			}
		}
	}, act: func(d fastDir) {
		for k := range 50 {
			switch f := fmt.Sprintf("x/f%d", 2*k); k % 3 {
			case 0:
				d.remove(f)
			case 1:
				d.rename(f, fmt.Sprintf("y/f%d", k))
			case 2:
				d.writeAt(f, 8000, 5000)
			}
		}
		d.writeFile("last", 1)
	}},
	{name: "encrypt", mke2fs: []string{"-O", "fast_commit,encrypt"}, readOnly: true, before: func(d fastDir) { d.writeFile("a", 10000) },
		act: func(d fastDir) { d.writeFile("b", 20000); d.rename("b", "a"); d.fsyncFile("a"); d.writeFile("c", 1) }},
	{name: "quota", mke2fs: []string{"-O", "fast_commit,quota,project"}, readOnly: true, before: func(d fastDir) { d.writeFile("a", 10000) },
		act: func(d fastDir) { d.writeFile("b", 20000); d.rename("b", "a"); d.fsyncFile("a"); d.writeFile("c", 1) }},
	{name: "number used again", before: func(d fastDir) { d.writeFile("a", 50000); d.writeFile("b", 1) },
		act: func(d fastDir) {
			d.remove("a")
			d.writeFile("b", 2)
			d.writeFile("c", 3)
			d.mkdir("d")
			d.writeFile("d/e", 5)
		}, kernelErrs: true},
}
