package vole_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"

	"github.com/volehq/vole"
)

// home returns a home that is removed when the example ends.
func home() (dir string, remove func()) {
	dir, err := os.MkdirTemp("", "vole-example-")
	if err != nil {
		log.Fatal(err)
	}
	return dir, func() { os.RemoveAll(dir) }
}

func Example() {
	ctx := context.Background()
	dir, remove := home()
	defer remove()

	store, err := vole.Open(ctx, vole.Options{Home: dir}) // Options{}: the user's own home
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	vol, err := store.Create(ctx, "pip-cache", vole.Spec{
		Quota:  2 * vole.GiB,
		Labels: vole.Labels{"team": "ml"},
	})
	if err != nil {
		log.Fatal(err)
	}
	fsys, err := vol.FS(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer fsys.Close()
	if err := fsys.WriteFile(ctx, "wheels/index.txt", []byte("numpy\n"), 0o644); err != nil {
		log.Fatal(err)
	}

	selector, _ := vole.ParseSelector("team=ml")
	for v, err := range store.Volumes(ctx, vole.Filter{Selector: selector}) {
		if err != nil {
			log.Fatal(err)
		}
		info := v.Info()
		fmt.Println(info.Name, info.Used, "of", info.Quota)
	}
	// Output: pip-cache 6B of 2GiB
}

// A volume that somebody has attached is not removed.
func ExampleVolume_Attach() {
	ctx := context.Background()
	dir, remove := home()
	defer remove()
	store, err := vole.Open(ctx, vole.Options{Home: dir})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	vol, err := store.Create(ctx, "workspace", vole.Spec{})
	if err != nil {
		log.Fatal(err)
	}

	att, err := vol.Attach(ctx, vole.AttachOptions{Holder: "sandbox-7", HostPath: true})
	if err != nil {
		log.Fatal(err)
	}
	// ... mount att.Path() into the sandbox ...
	err = store.Remove(ctx, "workspace")
	fmt.Println("in use:", errors.Is(err, vole.ErrInUse))

	if err := att.Detach(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("removed:", store.Remove(ctx, "workspace") == nil)
	// Output:
	// in use: true
	// removed: true
}

// The files of a volume as a standard file system.
func ExampleFS_Std() {
	ctx := context.Background()
	dir, remove := home()
	defer remove()
	store, err := vole.Open(ctx, vole.Options{Home: dir})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	vol, err := store.Create(ctx, "site", vole.Spec{})
	if err != nil {
		log.Fatal(err)
	}
	fsys, err := vol.FS(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer fsys.Close()
	if err := fsys.WriteFile(ctx, "css/main.css", []byte("body{}"), 0o644); err != nil {
		log.Fatal(err)
	}
	matches, err := fs.Glob(fsys.Std(ctx), "*/*.css")
	fmt.Println(matches, err)
	// Output: [css/main.css] <nil>
}
