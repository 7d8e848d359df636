package main

import (
	"io"
	"testing"

	"github.com/volehq/vole"
)

// A server does not tell the host of what holds a volume beside it: none is named then.
func TestProcessOfHolder(t *testing.T) {
	a := newApp(nil, io.Discard, io.Discard)
	for host, want := range map[string]string{"": "pid 7", "web": "pid 7 on web"} {
		if got := a.formatProcess(vole.AttachmentInfo{PID: 7, Host: host}); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
