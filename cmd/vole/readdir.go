package main

import (
	"context"
	"errors"
	"io"

	"github.com/volehq/vole"
)

// readDirectoryPages calls fn for each entry that is left in d.
func readDirectoryPages(ctx context.Context, d *vole.Dir, fn func(e vole.Entry) error) error {
	for {
		list, err := d.Read(ctx, 512)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range list {
			if err := fn(e); err != nil {
				return err
			}
		}
	}
}
