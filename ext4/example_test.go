package ext4_test

import (
	"context"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/volehq/vole/ext4"
)

// Make an image of 64 MiB, put a file into it, and list what it holds.
func Example() {
	dir, err := os.MkdirTemp("", "ext4")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	f, err := os.Create(filepath.Join(dir, "disk.raw"))
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	size, err := ext4.Format(f, 64<<20, ext4.FormatOptions{Label: "work"})
	if err != nil {
		log.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		log.Fatal(err)
	}

	img, err := ext4.Open(f, ext4.OpenOptions{})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	if _, err := img.WriteFile(ctx, "etc/motd", strings.NewReader("hello\n"), ext4.WriteOptions{}); err != nil {
		log.Fatal(err)
	}
	err = fs.WalkDir(img.Std(), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			fmt.Println(path)
		}
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := img.Close(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// .
	// etc
	// etc/motd
	// lost+found
}

// Look for damage, as e2fsck -fn does.
func ExampleCheck() {
	f, err := os.Open("disk.raw")
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	err = ext4.Check(context.Background(), f, ext4.CheckOptions{}, func(p ext4.Problem) error {
		fmt.Println(p.Detail)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
}
