package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/durable"
	"github.com/volehq/vole/server"
)

// firstKeyJSON is the key that the first start of a server makes.
type firstKeyJSON struct {
	Org string `json:"org"`
	Key string `json:"key"`
	URL string `json:"url"`
}

// createFirstKey makes a key when none exists, and shows it once: on standard output, or in
// a file. It is never logged. Where no operator key can be used any more, it goes into a file
// only: a reader of a server's output must not become its operator by that.
func (a *app) createFirstKey(ctx context.Context, f *serveFlags, s *server.Server, url string, log *slog.Logger) error {
	any, err := s.HasKey(ctx)
	if err != nil {
		return err
	}
	file := f.firstKeyFile
	if any {
		have, err := s.HasOperator(ctx)
		if err != nil || have {
			return err
		}
		if file == "" {
			log.Warn("no operator key can be used any more; 'vole serve key create --operator' with the settings of this server makes one, or --first-key-file")
			return nil
		}
	}
	if file == "" && os.Getenv("JOURNAL_STREAM") != "" && !isTerminal(a.stdout) {
		// What is printed may end in the journal, which many may read and which is kept.
		return &hinted{usageErrorf("there is no key yet, and a service must not print one into its log"), "give --first-key-file FILE"}
	}
	if file != "" {
		err := a.writeFirstKeyFile(ctx, file, s, url)
		if any && errors.Is(err, driver.ErrExists) {
			log.Warn("no operator key can be used any more, and --first-key-file is there with something else than a key that has ended: remove it, and start again for a new key", "file", file)
			return nil // those who have other keys are served
		}
		return err
	}
	key, err := s.FirstKey(ctx)
	if err != nil || key == "" {
		return err
	}
	switch {
	case a.json:
		return a.printJSON(firstKeyJSON{Org: server.DefaultOrg, Key: key, URL: url})
	case a.quiet:
		return a.printf("%s\n", key)
	}
	err = a.printf(`The first key may do everything in the organisation %q, and make others. It is shown only now:

    %s

`, server.DefaultOrg, key)
	return errors.Join(err, a.printLoginAdvice(url))
}

// printLoginAdvice prints the command that logs in to the server, to copy to other hosts.
func (a *app) printLoginAdvice(url string) error {
	if strings.HasPrefix(url, "unix:") {
		return a.printf("Clients reach the socket by a proxy; 'vole login URL' asks for the key.\n")
	}
	return a.printf("Where the volumes are to be used, give it to:\n\n    vole login %s\n\n", url)
}

// writeFirstKeyFile makes the file before the key, which cannot be had again: a file that cannot be
// made must not cost the key. The file is removed when no key was made, and synced with its directory
// when one was.
func (a *app) writeFirstKeyFile(ctx context.Context, file string, s *server.Server, url string) (err error) {
	if err := removeEndedKey(ctx, file, s); err != nil {
		return err
	}
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return &hinted{driver.Errorf(driver.ErrExists, "--first-key-file: %s already exists, but there is no key yet", file), "remove it if you do not need it"}
	}
	if err != nil {
		return err
	}
	key := ""
	defer func() {
		err = errors.Join(err, out.Close())
		if key == "" {
			err = errors.Join(err, os.Remove(file))
		}
	}()
	if key, err = s.FirstKey(ctx); err != nil || key == "" {
		return err
	}
	if _, err = out.WriteString(key + "\n"); err == nil {
		err = out.Sync()
	}
	if err == nil {
		err = durable.SyncDir(filepath.Dir(file))
	}
	if err != nil || a.quiet || a.json {
		return err
	}
	return a.printf("The first key is in %s\n", file)
}

// removeEndedKey removes the file of a first key that was revoked or has expired.
func removeEndedKey(ctx context.Context, file string, s *server.Server) error {
	if i, err := os.Lstat(file); err != nil || !i.Mode().IsRegular() || i.Size() > 1<<10 {
		return nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	ended, err := s.KeyEnded(ctx, strings.TrimSpace(string(b)))
	if err != nil || !ended {
		return err
	}
	return os.Remove(file)
}
