package sandbox

import "testing"

func TestRun(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e *env, runtime string) {
		c := shell(t, "echo hello; echo error >&2; echo kept > /data/x; exit 7", "data:/data")
		c.Runtime = runtime
		o, err := e.run(c, "")
		if err != nil || o.ExitCode != 7 || o.out != "hello\n" || o.err != "error\n" {
			t.Fatalf("%+v, %v", o, err)
		}
		c = shell(t, "cat /data/x", "data:/data:ro")
		c.Runtime = runtime
		if o, err = e.run(c, ""); err != nil || o.out != "kept\n" {
			t.Fatalf("%+v, %v", o, err)
		}
	})
}
