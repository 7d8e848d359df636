package sandbox

import (
	"cmp"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"golang.org/x/sys/unix"
)

// account is the user and groups that the command runs as.
type account struct {
	uid, gid uint32
	groups   []uint32
	home     string
}

// resolveUser resolves user[:group], names or numbers, by the root's own passwd and
// group files. "" is 0:0.
func resolveUser(root, spec string) (account, error) {
	passwd, err := parseColonTable(root, "/etc/passwd")
	if err != nil {
		return account{}, err
	}
	group, err := parseColonTable(root, "/etc/group")
	if err != nil {
		return account{}, err
	}
	user, grp, hasGroup := strings.Cut(spec, ":")
	a, err := findPasswdEntry(passwd, group, cmp.Or(user, "0"))
	if err != nil || !hasGroup {
		return a, err
	}
	a.groups = nil
	if gid, ok := parseID32(grp); ok {
		a.gid = gid
		return a, nil
	}
	for _, g := range group {
		if gid, ok := parseID32(g[2]); ok && g[0] == grp {
			a.gid = gid
			return a, nil
		}
	}
	return a, driver.Errorf(vole.ErrInvalid, "the sandbox's /etc/group has no group %q", grp)
}

// findPasswdEntry finds a user of the root's /etc/passwd by name or number. A number without an
// entry has group 0 and home "/"; a name without one is an error.
func findPasswdEntry(passwd, group [][]string, user string) (account, error) {
	acct := account{home: "/"}
	uid, numeric := parseID32(user)
	name, found := "", numeric
	acct.uid = uid
	for _, u := range passwd {
		id, ok := parseID32(u[2])
		gid, ok2 := parseID32(u[3])
		if !ok || !ok2 || len(u) < 6 || (numeric && id != uid) || (!numeric && u[0] != user) {
			continue
		}
		name, found = u[0], true
		acct.uid, acct.gid = id, gid
		if strings.HasPrefix(u[5], "/") {
			acct.home = u[5]
		}
		break
	}
	if !found {
		return acct, driver.Errorf(vole.ErrInvalid, "the sandbox's /etc/passwd has no user %q", user)
	}
	if acct.uid == 0 && acct.home == "/" {
		acct.home = "/root"
	}
	for _, g := range group {
		gid, ok := parseID32(g[2])
		if ok && name != "" && slices.Contains(strings.Split(g[3], ","), name) {
			acct.groups = append(acct.groups, gid)
		}
	}
	return acct, nil
}

// parseColonTable reads a file of lines with at least four fields between colons. A root
// without the file has an empty table.
func parseColonTable(root, name string) ([][]string, error) {
	b, err := readGuestFile(root, name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var rows [][]string
	for line := range strings.SplitSeq(string(b), "\n") {
		if f := strings.Split(line, ":"); len(f) >= 4 {
			rows = append(rows, f)
		}
	}
	return rows, nil
}
