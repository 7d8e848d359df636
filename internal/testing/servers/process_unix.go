//go:build unix

package servers

import (
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownGroup makes what is started the first process of a group.
func ownGroup(attr *syscall.SysProcAttr) { attr.Setpgid = true }

// startAsPostgresUser starts cmd as the user postgres when this process is root, for whom
// PostgreSQL does not run.
func startAsPostgresUser(cmd *exec.Cmd, log string, deathsig syscall.Signal) (*process, error) {
	cred, err := postgresUser()
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	cmd.Dir = "/" // the working directory may be closed to that user
	return startProcess(cmd, log, deathsig)
}

// postgresUser returns whom PostgreSQL runs as, or nil for this process's own user.
func postgresUser() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// giveToPostgres gives files to the user whom PostgreSQL runs as.
func giveToPostgres(paths ...string) error {
	cred, err := postgresUser()
	if err != nil || cred == nil {
		return err
	}
	for _, path := range paths {
		if err := os.Chown(path, int(cred.Uid), int(cred.Gid)); err != nil {
			return err
		}
	}
	return nil
}

// supportsXattrs reports whether files in dir can have extended attributes, where versitygw
// keeps what S3 says of an object. Some temporary file systems have none.
func supportsXattrs(dir string) bool {
	f, err := os.CreateTemp(dir, ".xattr-")
	if err != nil {
		return false
	}
	defer os.Remove(f.Name())
	defer f.Close()
	return unix.Setxattr(f.Name(), "user.vole", []byte("1"), 0) == nil
}
