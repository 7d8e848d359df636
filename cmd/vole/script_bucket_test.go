package main

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/bucket"
)

// cmdNamespace puts files into a volume of a namespace in a directory. All is made
// that is not there.
func cmdNamespace(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: namespace DIR ORG VOLUME FILE...")
	}
	ctx := context.Background()
	b, err := bucket.OpenOrg(ctx, bucket.Options{Dir: ts.MkAbs(args[0]), Maintain: -1}, args[1])
	ts.Check(err)
	s := vole.New(b)
	ts.Check(errors.Join(putFiles(ctx, ts, s, args[2], args[3:]), s.Close()))
}

func putFiles(ctx context.Context, ts *testscript.TestScript, s *vole.Store, volume string, files []string) error {
	v, _, err := s.Ensure(ctx, volume, vole.Spec{})
	if err != nil {
		return err
	}
	f, err := v.FS(ctx)
	if err != nil {
		return err
	}
	for _, name := range files {
		err = errors.Join(err, f.WriteFile(ctx, "d/"+filepath.Base(name), []byte(ts.ReadFile(name)), 0o644))
	}
	return errors.Join(err, f.Close())
}
