package sandbox

import (
	"errors"
	"slices"
	"testing"

	"github.com/volehq/vole"
)

func TestCheckMounts(t *testing.T) {
	parse := func(list ...string) []Mount {
		var out []Mount
		for _, s := range list {
			m, err := ParseMount(s)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, m)
		}
		return out
	}
	got, err := checkMounts(parse("a:/x/y/z", "b:/x", "c:/w/v", "d:/x/y"))
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, m := range got {
		order = append(order, m.Path)
	}
	if want := []string{"/x", "/w/v", "/x/y", "/x/y/z"}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
	for in, kind := range map[string]error{
		"a:/x/":                  vole.ErrInvalid,
		"a:/proc/1":              vole.ErrInvalid,
		"a:/dev":                 vole.ErrInvalid,
		"a:/y:stat-virt=strict":  vole.ErrUnsupported,
		"a:/y:host-perms=mirror": vole.ErrUnsupported,
	} {
		if _, err := checkMounts(parse("b:/x", in)); !errors.Is(err, kind) {
			t.Errorf("%s beside b:/x: %v, want %v", in, err, kind)
		}
	}
}
