//go:build unix

package local

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/local/internal/disk"
	"github.com/volehq/vole/internal/catalog"
	"github.com/volehq/vole/internal/flock"
	hostproc "github.com/volehq/vole/internal/proc"
)

const attachmentColumns = `a.id, a.volume, v.name, a.holder, a.read_only, a.host_path, a.host, a.pid, a.started, a.since, a.process`

// attachmentRow is a row of attachments, with the name of the volume and the process that holds
// it.
type attachmentRow struct {
	driver.AttachmentInfo
	process string
}

// scanAttachment reads one row of attachmentColumns. ErrCorrupt: one of its ids is not an id.
func scanAttachment(scan catalog.Scanner) (r attachmentRow, err error) {
	var started, since int64
	err = scan(&r.ID, &r.VolumeID, &r.Volume, &r.Holder, &r.ReadOnly, &r.HostPath, &r.Host, &r.PID, &started, &since, &r.process)
	if err != nil {
		return r, err
	}
	r.Started, r.Since = catalog.Time(started), catalog.Time(since)
	return r, validateIDs(r.ID, r.VolumeID, r.process)
}

// attachment implements driver.Attachment.
type attachment struct {
	b    *Backend
	info driver.AttachmentInfo
	path string
	hold *flock.Lock // on a disk's image, else nil

	mu    sync.Mutex // guards ended
	ended bool
}

// Attach implements driver.Backend.
func (b *Backend) Attach(ctx context.Context, id string, opts driver.AttachOptions) (driver.Attachment, error) {
	if err := b.checkWritable(); err != nil {
		return nil, err
	}
	proc, err := b.processID()
	if err != nil {
		return nil, translateError(err)
	}
	aid, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	host, _ := os.Hostname() // for people only; "" where the system has none
	a := &attachment{b: b, path: b.homePath("volumes", id, "data"), info: driver.AttachmentInfo{
		ID: aid.String(), VolumeID: id, Holder: opts.Holder, ReadOnly: opts.ReadOnly, HostPath: opts.HostPath,
		Host: host, PID: os.Getpid(), Started: hostproc.Start(), Since: b.clock().UTC(),
	}}
	if opts.Host != "" { // a server attaches for a client elsewhere
		a.info.Host, a.info.PID, a.info.Started = opts.Host, opts.PID, opts.Started.UTC()
	}
	if err := b.shareDraft(ctx, id); err != nil {
		return nil, err
	}
	if err := a.prepareTarget(ctx); err != nil {
		return nil, err
	}
	if err := b.open.Add(a); err != nil {
		a.hold.Release()
		return nil, err
	}
	err = b.db.Write(ctx, catalog.Durable, func(tx *catalog.Tx) error { return a.insertRow(tx, proc) })
	if err != nil {
		b.open.Remove(a)
		a.hold.Release()
		return nil, err
	}
	return a, nil
}

// prepareTarget makes sure that the volume has something to attach: the directory of its files,
// or the image of a disk, on which it takes a hold.
func (a *attachment) prepareTarget(ctx context.Context) error {
	b, id := a.b, a.info.VolumeID
	r, err := b.getVolume(ctx, driver.ByID(id))
	if err != nil {
		return err
	}
	if r.Kind == driver.KindDisk {
		a.path = b.homePath("volumes", id, disk.ImageName)
		a.hold, err = b.disks.Volume(id).HoldForAttachment(ctx, a.info.ReadOnly, func(image *os.File) error { return a.verifyPath(ctx, image) })
		return err
	}
	if err := b.ensureDataDir(ctx, id); err != nil {
		return err
	}
	data, err := openDirAt(b.volumes, id+"/data")
	if errors.Is(err, fs.ErrNotExist) {
		return b.errMissingDirectory(ctx, id)
	}
	if err != nil {
		return translateError(err)
	}
	defer data.Close()
	return a.verifyPath(ctx, data)
}

// verifyPath returns an error unless the path that the holder gets leads to the open file f.
// ErrNotFound: the volume was removed after f was opened.
func (a *attachment) verifyPath(ctx context.Context, f *os.File) error {
	want, err := f.Stat()
	if err != nil {
		return translateError(err)
	}
	have, err := os.Lstat(a.path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, gone := a.b.getVolume(ctx, driver.ByID(a.info.VolumeID)); gone != nil {
			return gone
		}
		return errHomeMoved(a.path)
	}
	if err != nil {
		return translateError(err)
	}
	if !os.SameFile(want, have) {
		return errHomeMoved(a.path)
	}
	return nil
}

// Hold implements driver.Attachment.
func (a *attachment) Hold() *os.File { return a.hold.File() }

// insertRow adds the attachment to the catalog. ErrUnsupported: it would write past the FS to a
// volume with a quota.
func (a *attachment) insertRow(tx *catalog.Tx, proc string) error {
	info, err := scanOneVolume(tx.QueryRow(selectByID, a.info.VolumeID))
	if err != nil {
		return err
	}
	a.info.Volume = info.Name
	if a.bypassesFS() && info.Quota != 0 {
		return driver.Errorf(driver.ErrUnsupported,
			"the volume has a quota of %s, which cannot be enforced on a path of the host; attach it read-only, or clear the quota", info.Quota)
	}
	_, err = tx.Exec(`UPDATE volumes SET made = max(made, 1), stale = max(stale, ?), last_used = max(?, last_used + 1) WHERE id = ?`,
		a.bypassesFS(), catalog.Nanos(a.info.Since), info.ID)
	if err != nil {
		return err
	}
	i := a.info
	_, err = tx.Exec(`INSERT INTO attachments (id, volume, process, holder, read_only, host_path, host, pid, started, since)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		i.ID, i.VolumeID, proc, i.Holder, i.ReadOnly, i.HostPath, i.Host, i.PID, catalog.Nanos(i.Started), catalog.Nanos(i.Since))
	return err
}

// bypassesFS reports whether the holder may write to the files without going through an FS,
// which charges what it writes.
func (a *attachment) bypassesFS() bool { return a.info.HostPath && !a.info.ReadOnly }

// Info implements driver.Attachment.
func (a *attachment) Info() driver.AttachmentInfo { return a.info }

// Path implements driver.Attachment.
func (a *attachment) Path() string { return a.path }

// Detach implements driver.Attachment. It can be tried again if it fails.
func (a *attachment) Detach(ctx context.Context) error {
	return a.b.ballast.Freeing(func() error { return a.Close(ctx) })
}

// Close implements openset.Closer. It may fail, and be tried again.
func (a *attachment) Close(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		return nil
	}
	last := false
	// Lazy: a power cut kills this process too, and recovery then deletes the row.
	err := a.b.db.Write(ctx, catalog.Lazy, func(tx *catalog.Tx) error {
		if _, err := tx.Exec(`DELETE FROM attachments WHERE id = ?`, a.info.ID); err != nil {
			return err
		}
		if err := a.b.recordUse(tx, a.info.VolumeID); err != nil {
			return err
		}
		if !a.bypassesFS() {
			return nil
		}
		past, err := a.b.liveBypassingWriters(tx, a.info.VolumeID)
		last = len(past) == 0
		return err
	})
	if err != nil {
		return err
	}
	a.ended = true
	a.b.open.Remove(a)
	a.hold.Release()
	if !last {
		return nil
	}
	// The attachment has ended whether or not the volume can be measured; if not, its usage
	// stays marked as stale.
	_, _ = a.b.measureAtRest(ctx, a.info.VolumeID)
	return nil
}

// recordUse sets the last use of a volume, inside a transaction, to now.
func (b *Backend) recordUse(tx *catalog.Tx, volume string) error {
	_, err := tx.Exec(`UPDATE volumes SET last_used = max(?, last_used + 1) WHERE id = ?`, catalog.Nanos(b.clock()), volume)
	return err
}

// liveAttachments lists the attachments of a volume inside a transaction, without those of dead
// processes.
func (b *Backend) liveAttachments(tx *catalog.Tx, volume string) ([]attachmentRow, error) {
	list, err := catalog.SelectTx(tx, scanAttachment, `SELECT `+attachmentColumns+` FROM attachments a JOIN volumes v ON v.id = a.volume
		WHERE a.volume = ? ORDER BY a.id`, volume)
	return b.dropDeadHolders(list), err
}

// dropDeadHolders returns the attachments of live processes.
func (b *Backend) dropDeadHolders(list []attachmentRow) []attachmentRow {
	live := b.newLiveness()
	return slices.DeleteFunc(list, func(r attachmentRow) bool { return !live.isAlive(r.process) })
}

// liveBypassingWriters lists the attachments of live processes that may write past the FS.
func (b *Backend) liveBypassingWriters(tx *catalog.Tx, volume string) ([]attachmentRow, error) {
	list, err := b.liveAttachments(tx, volume)
	return slices.DeleteFunc(list, func(r attachmentRow) bool { return !r.HostPath || r.ReadOnly }), err
}

// refuseAttached returns ErrInUse, naming the first live holder, if the volume is attached.
func (b *Backend) refuseAttached(tx *catalog.Tx, volume string) error {
	list, err := b.liveAttachments(tx, volume)
	if err != nil || len(list) == 0 {
		return err
	}
	return errAttached(list[0].AttachmentInfo, len(list) > 1)
}

// errAttached returns ErrInUse for a volume that is attached.
func errAttached(i driver.AttachmentInfo, more bool) error {
	and := ""
	if more {
		and = " and others"
	}
	return driver.Errorf(driver.ErrInUse, "in use by %q (process %d on %s, since %s)%s; stop it first",
		i.Holder, i.PID, i.Host, i.Since.Format(time.RFC3339), and)
}

// Attachments implements driver.Backend.
func (b *Backend) Attachments(ctx context.Context, id string) ([]driver.AttachmentInfo, error) {
	if err := b.checkOpen(); err != nil {
		return nil, err
	}
	if id != "" {
		if _, err := b.getVolume(ctx, driver.ByID(id)); err != nil {
			return nil, err
		}
	}
	rows, err := catalog.Select(ctx, b.db, scanAttachment, `SELECT `+attachmentColumns+` FROM attachments a
		JOIN volumes v ON v.id = a.volume WHERE ?1 = '' OR a.volume = ?1 ORDER BY a.id`, id)
	if err != nil {
		return nil, err
	}
	list := []driver.AttachmentInfo{}
	for _, r := range b.dropDeadHolders(rows) {
		list = append(list, r.AttachmentInfo)
	}
	return list, nil
}
