package sandbox

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/volehq/vole"
)

func TestParseMount(t *testing.T) {
	for in, want := range map[string]Mount{
		"data:/data":                 {Volume: "data", Path: "/data"},
		"data://data//x/./y/":        {Volume: "data", Path: "/data/x/y"},
		"d:/x:rw":                    {Volume: "d", Path: "/x"},
		"d:/x:ro,mode=ensure":        {Volume: "d", Path: "/x", ReadOnly: true, Mode: ModeEnsure},
		"d:/x:ro,noexec":             {Volume: "d", Path: "/x", ReadOnly: true, NoExec: true},
		"d:/x:nosuid,nodev":          {Volume: "d", Path: "/x", NoSUID: true},
		"d:/x:dev":                   {Volume: "d", Path: "/x", Dev: true},
		"d:/x:quota=2G":              {Volume: "d", Path: "/x", Quota: 2 * vole.GiB},
		"d:/x:kind=dir,quota=1":      {Volume: "d", Path: "/x", Kind: vole.KindDir, Quota: 1},
		"d:/x:size=4M,kind=disk":     {Volume: "d", Path: "/x", Kind: vole.KindDisk, Capacity: 4 * vole.MiB},
		"d:/x:kind=disk":             {Volume: "d", Path: "/x", Kind: vole.KindDisk},
		"d:/x:mode=existing":         {Volume: "d", Path: "/x", Mode: ModeExisting},
		"d:/x:subpath=/a//b/":        {Volume: "d", Path: "/x", Subpath: "a/b"},
		"d:/x:subpath=a:b":           {Volume: "d", Path: "/x", Subpath: "a:b"},
		"d:/x:subpath=.":             {Volume: "d", Path: "/x"},
		"d:/x:stat-virt=off":         {Volume: "d", Path: "/x", StatVirt: StatVirtOff},
		"d:/x:host-perms=mirror":     {Volume: "d", Path: "/x", HostPerms: HostPermsMirror},
		"d:/a b/ü=%2f":               {Volume: "d", Path: "/a b/ü=%2f"},
		"d:/..x/...":                 {Volume: "d", Path: "/..x/..."},
		"d:/x:subpath=a,mode=create": {Volume: "d", Path: "/x", Subpath: "a", Mode: ModeCreate},
	} {
		got, err := ParseMount(in)
		if err != nil || got != want {
			t.Errorf("ParseMount(%q) = %+v, %v; want %+v", in, got, err, want)
		}
	}
}

// TestMountHints tells who writes a mount as other tools have it how it is written here.
func TestMountHints(t *testing.T) {
	for in, words := range map[string][]string{
		"/srv/site":               {"name of a volume is missing", "NAME:/srv/site"},
		"data":                    {"path in the sandbox is missing", "data:/data"},
		"/srv/site:/c":            {"path of the host", "vole create --from /srv/site site", "-v site:/c"},
		"/srv/site:/c:ro":         {"-v site:/c"},
		"/srv/my site/:/c":        {"--from '/srv/my site/' NAME", "-v NAME:/c"},
		"./src:/c":                {"path of the host", "vole create --from ./src src"},
		".:/c":                    {"path of the host", "-v NAME:/c"},
		"..":                      {"path of the host", "/guest/path"},
		"~/x:/c":                  {"path of the host"},
		"/:/host":                 {"path of the host", "-v NAME:/host"},
		"/a:b":                    {"path of the host", "-v a:/guest/path"},
		"type=bind,src=/a,dst=/b": {"keys and values", "NAME:/guest"},
		"data/sub:/c":             {`"/"`, "subpath=sub of data", "vole create --from data/sub"},
		"d:/x:z":                  {`unknown option "z"`, "leave it out"},
		"d:/x:ro,Z":               {`unknown option "Z"`, "leave it out"},
		"d:/x:cached":             {"leave it out"},
		"d:/x:readonly":           {"write ro"},
		"d:/x:frob":               {`unknown option "frob"`, "vole run --help"},
	} {
		_, err := ParseMount(in)
		if !errors.Is(err, vole.ErrInvalid) {
			t.Errorf("%q: %v", in, err)
			continue
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q: %v\ndoes not say %q", in, err, w)
			}
		}
	}
}

func TestParseMountRefuses(t *testing.T) {
	for in, word := range map[string]string{
		"":                                     "NAME:/guest",
		"data":                                 "NAME:/guest",
		":/x":                                  "name is empty",
		"-d:/x":                                `"-"`,
		"a/b:/x":                               `"/"`,
		"d:":                                   "absolute",
		"d:x":                                  "absolute",
		"d:/":                                  `not be "/"`,
		"d://.//":                              `not be "/"`,
		"d:/a/../b":                            "'..'",
		"d:/a;b":                               `";"`,
		"d:/a,b":                               `","`,
		"d:/a\x00":                             `"\x00"`,
		"d:/a\xff":                             "UTF-8",
		"d:/x:":                                "empty",
		"d:/x:ro,":                             "empty",
		"d:/x:ro,ro":                           `"ro" is given twice`,
		"d:/x:ro,rw":                           "exclude",
		"d:/x:dev,nodev":                       "exclude",
		"d:/x:dev=1":                           `"dev" takes no value`,
		"d:/x:quota=1,quota=1":                 `"quota" is given twice`,
		"d:/x:RO":                              `unknown option "RO"`,
		"d:/x:exec":                            `unknown option "exec"`,
		"d:/x:ro=1":                            `"ro" takes no value`,
		"d:/x:quota":                           `"quota" needs a value`,
		"d:/x:quota=":                          `"quota" needs a value`,
		"d:/x:quota=0":                         "at least 1 byte",
		"d:/x:quota=-1":                        "quota=-1",
		"d:/x:quota=99999999T":                 "larger",
		"d:/x:kind=blob":                       "use dir, disk",
		"d:/x:mode=maybe":                      "use existing, create, ensure",
		"d:/x:size=1G":                         `"size" needs kind=disk`,
		"d:/x:kind=dir,size=1G":                `"size" needs kind=disk`,
		"d:/x:kind=disk,size=1G,quota=1G":      `"quota" is not for`,
		"d:/x:kind=disk,size=1G,stat-virt=off": `"stat-virt" is not for`,
		"d:/x:kind=disk,size=1G,host-perms=mirror": `"host-perms" is not for`,
		"d:/x:kind=disk,mode=create":               `needs option "size"`,
		"d:/x:stat-virt=off,host-perms=mirror":     "excludes host-perms=mirror",
		"d:/x:subpath=a/../../b":                   "'..'",
		"d:/x:subpath=" + strings.Repeat("a", 300): "element of 300",
		strings.Repeat("n", 129) + ":/x":           "129 bytes",
		"d:/" + strings.Repeat("a/", 3000):         "bytes long",
	} {
		_, err := ParseMount(in)
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("ParseMount(%.60q) = %v, want an error with %q", in, err, word)
		}
		if err != nil && !errors.Is(err, vole.ErrInvalid) && !errors.Is(err, vole.ErrPathEscape) {
			t.Errorf("ParseMount(%.60q): %v matches neither ErrInvalid nor ErrPathEscape", in, err)
		}
	}
}

func FuzzParseMount(f *testing.F) {
	for _, s := range []string{
		"data:/data", "d:/x:ro,noexec,nosuid,nodev", "d:/x:kind=disk,size=20GiB,mode=create",
		"d:/x:quota=1.5G,stat-virt=relaxed,host-perms=private", "d:/x:subpath=a/b:c,rw", "d:/x:ro,ro", "d:/../x", ":::,,,===",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMount(s)
		if err != nil {
			if !errors.Is(err, vole.ErrInvalid) && !errors.Is(err, vole.ErrPathEscape) {
				t.Fatalf("%q: %v has no kind", s, err)
			}
			return
		}
		if !strings.HasPrefix(m.Path, "/") || m.Path == "/" || strings.ContainsAny(m.Path, ":;,\x00") ||
			slices.Contains(strings.Split(m.Path+"/"+m.Subpath, "/"), "..") {
			t.Fatalf("%q: bad path got through: %+v", s, m)
		}
		again, err := ParseMount(m.String())
		if err != nil || again != m {
			t.Fatalf("%q -> %+v -> %q -> %+v, %v", s, m, m.String(), again, err)
		}
	})
}

// Every option is offered for completion, and every option that is offered is one.
func TestMountOptionsAreComplete(t *testing.T) {
	offered := map[string]bool{}
	for _, opt := range MountOptions {
		key, _, _ := strings.Cut(opt, "=")
		offered[key] = true
		if strings.HasSuffix(opt, "=") {
			opt += "1" // a size, a directory
		}
		if err := new(Mount).parseOptions(opt, opt); err != nil {
			t.Errorf("%s: %v", opt, err)
		}
	}
	for _, table := range [][]string{slices.Collect(maps.Keys(flagOptions)), slices.Collect(maps.Keys(valueOptions))} {
		for _, key := range table {
			if !offered[key] {
				t.Errorf("%s is not offered", key)
			}
		}
	}
}
