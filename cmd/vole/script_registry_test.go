package main

import (
	"io"
	"log"
	"net/http/httptest"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/rogpeppe/go-internal/testscript"
)

type registryKey struct{}

// cmdRegistry runs a registry of images for a script.
func cmdRegistry(ts *testscript.TestScript, neg bool, args []string) {
	server, _ := ts.Value(registryKey{}).(*scriptRegistry)
	switch {
	case len(args) == 1 && args[0] == "start":
		server.s = httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
		ts.Defer(server.s.Close)
		ts.Setenv("REGISTRY", strings.TrimPrefix(server.s.URL, "http://"))
	case len(args) == 3 && args[0] == "push":
		ref, err := name.ParseReference(ts.Getenv("REGISTRY") + "/" + args[1])
		ts.Check(err)
		ts.Check(remote.Write(ref, imageOf(ts, args[2])))
	case len(args) == 3 && args[0] == "layout":
		at, err := layout.Write(ts.MkAbs(args[1]), empty.Index)
		ts.Check(err)
		ts.Check(at.AppendImage(imageOf(ts, args[2])))
	case len(args) == 3 && args[0] == "save":
		ref, err := name.ParseReference("test:1")
		ts.Check(err)
		ts.Check(tarball.WriteToFile(ts.MkAbs(args[1]), ref, imageOf(ts, args[2])))
	case len(args) == 1 && args[0] == "stop":
		server.s.Close()
	default:
		ts.Fatalf("usage: registry start | push NAME TAR | layout DIR TAR | save FILE TAR | stop")
	}
}

type scriptRegistry struct{ s *httptest.Server }

// imageOf makes an image of a tar of its root. Its command prints the file hello.
func imageOf(ts *testscript.TestScript, tar string) v1.Image {
	layer, err := tarball.LayerFromFile(ts.MkAbs(tar))
	ts.Check(err)
	img, err := mutate.AppendLayers(empty.Image, layer)
	ts.Check(err)
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{
		OS: "linux", Architecture: runtime.GOARCH, RootFS: rootFSOf(ts, img),
		Config: v1.Config{Cmd: []string{"cat", "/hello"}, Env: []string{"FROM=image"}},
	})
	ts.Check(err)
	return img
}

func rootFSOf(ts *testscript.TestScript, img v1.Image) v1.RootFS {
	c, err := img.ConfigFile()
	ts.Check(err)
	return c.RootFS
}
