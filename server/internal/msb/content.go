package msb

import (
	"context"
	"net/http"

	"github.com/volehq/vole"
	"github.com/volehq/vole/server/internal/core"
)

// readFile answers with the content of a file, or with the ranges that the request asks for.
func (a *api) readFile(w http.ResponseWriter, r *core.Request) error {
	return a.withPathOfHeader(r, true, func(ctx context.Context, f *vole.FS, at string) error {
		h, err := f.Open(ctx, at, vole.OpenOptions{})
		if err != nil {
			return err
		}
		defer h.Close()
		// Without a time: whole seconds are too coarse to tell versions apart.
		return core.ServeFile(w, r, h, false)
	})
}

// writeFile replaces a file by the body, atomically, and makes missing parents.
func (a *api) writeFile(w http.ResponseWriter, r *core.Request) error {
	return core.AnswerNoContent(w, a.withPathOfHeader(r, false, func(ctx context.Context, f *vole.FS, at string) error {
		_, err := f.WriteFrom(ctx, at, r.Body, vole.WriteOptions{Size: max(0, r.ContentLength)})
		return err
	}))
}
