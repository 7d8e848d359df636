package vole

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/volehq/vole/driver"
)

// Volume is one volume, held by its id.
type Volume struct {
	b driver.Backend

	mu   sync.Mutex // guards info
	info Info
}

func (s *Store) newVolume(info Info) *Volume { return &Volume{b: s.b, info: info} }

// Info describes the volume as the last call on v found it, without asking again.
func (v *Volume) Info() Info {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.info
}

// ID is the volume's id, which never changes.
func (v *Volume) ID() string { return v.Info().ID }

// Name is the name the volume had when last asked.
func (v *Volume) Name() string { return v.Info().Name }

func (v *Volume) setInfo(info Info) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.info = info
}

func (v *Volume) wrapError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return wrapError(op, v.Name(), path, err)
}

// Refresh asks for the volume's description again and returns it.
func (v *Volume) Refresh(ctx context.Context) (Info, error) {
	info, err := v.b.Get(ctx, driver.ByID(v.ID()))
	if err != nil {
		return Info{}, v.wrapError("get", "", err)
	}
	v.setInfo(info)
	return info, nil
}

// Update changes name, limits and labels in one step.
func (v *Volume) Update(ctx context.Context, change Update) error {
	return v.applyUpdate(ctx, "update", change)
}

func (v *Volume) applyUpdate(ctx context.Context, op string, change Update) error {
	if err := change.Validate(); err != nil {
		return v.wrapError(op, "", err)
	}
	info, err := v.b.Update(ctx, v.ID(), change)
	if err != nil {
		return v.wrapError(op, "", err)
	}
	v.setInfo(info)
	return nil
}

// Clone makes a volume that begins with all that v holds. No bytes are moved. Kind and
// limits are spec's; spec.From is set. ErrUnsupported: the backend cannot.
func (v *Volume) Clone(ctx context.Context, name string, spec Spec) (*Volume, error) {
	spec.From = v.ID()
	return (&Store{b: v.b}).Create(ctx, name, spec)
}

// Remove removes the volume and all it holds. ErrInUse: it is attached.
func (v *Volume) Remove(ctx context.Context) error {
	_, err := v.b.Remove(ctx, driver.ByID(v.ID()))
	return v.wrapError("remove", "", err)
}

// RemoveUnused removes the volume and all it holds unless it was used after since, the
// Info.LastUsed that it had when its removal was decided on. ErrInUse: it was,
// or it is attached.
func (v *Volume) RemoveUnused(ctx context.Context, since time.Time) error {
	if since.IsZero() {
		return v.wrapError("remove", "", driver.Errorf(ErrUnsupported, "the server does not tell when volumes were last used; upgrade it"))
	}
	_, err := v.b.RemoveUnused(ctx, v.ID(), since)
	return v.wrapError("remove", "", err)
}

// Measure counts what the volume holds, corrects its usage and returns it.
func (v *Volume) Measure(ctx context.Context) (Info, error) {
	info, err := v.b.Measure(ctx, v.ID())
	if err != nil {
		return Info{}, v.wrapError("measure", "", err)
	}
	v.setInfo(info)
	return info, nil
}

// FS opens the volume's files for reading and writing.
func (v *Volume) FS(ctx context.Context) (*FS, error) { return v.OpenFS(ctx, FSOptions{}) }

// OpenFS opens the volume's files as opts says.
func (v *Volume) OpenFS(ctx context.Context, opts FSOptions) (*FS, error) {
	if opts.Attachment != "" && !v.b.Caps().Leases {
		return nil, v.wrapError("open", "", noLeases)
	}
	d, err := v.b.OpenFS(ctx, v.ID(), opts)
	if err != nil {
		return nil, v.wrapError("open", "", err)
	}
	return &FS{d: d, vol: v, takesMeta: v.b.Caps().WriteMeta}, nil
}

// noLeases refuses what only backends with leases have.
var noLeases = driver.Errorf(ErrUnsupported, "attachments of this backend are no leases, and dir volumes are always shared; an organisation's volumes have them")

// Attach takes the right to use the volume until Detach, or until this process dies.
func (v *Volume) Attach(ctx context.Context, opts AttachOptions) (*Attachment, error) {
	if opts.Holder == "" {
		opts.Holder = fmt.Sprintf("%s[%d]", filepath.Base(os.Args[0]), os.Getpid())
	}
	if err := cmp.Or(driver.ValidateHolder(opts.Holder), driver.ValidateHost(opts.Host)); err != nil {
		return nil, v.wrapError("attach", "", err)
	}
	if opts.Exclusive && !v.b.Caps().Leases {
		return nil, v.wrapError("attach", "", noLeases)
	}
	a, err := v.b.Attach(ctx, v.ID(), opts)
	if err != nil {
		return nil, v.wrapError("attach", "", err)
	}
	return &Attachment{d: a, vol: v}, nil
}

// Attachments lists the volume's live attachments, oldest first.
func (v *Volume) Attachments(ctx context.Context) ([]AttachmentInfo, error) {
	list, err := v.b.Attachments(ctx, v.ID())
	return list, v.wrapError("list attachments", "", err)
}

// Attachment is a held right to use a volume.
type Attachment struct {
	d   driver.Attachment
	vol *Volume
}

// Info describes the attachment.
func (a *Attachment) Info() AttachmentInfo { return a.d.Info() }

// Volume is the volume that is attached.
func (a *Attachment) Volume() *Volume { return a.vol }

// Path is where the volume's files (dir) or image (disk) lie on this host, absolute;
// "" when the backend has no such place. Using it needs AttachOptions.HostPath.
func (a *Attachment) Path() string { return a.d.Path() }

// Hold is the open file by which a disk volume's image is held, nil where there is
// none. Pass it on to a program that is to hold the volume even if this one dies.
func (a *Attachment) Hold() *os.File { return a.d.Hold() }

// Detach gives the right back. Detaching twice does nothing.
func (a *Attachment) Detach(ctx context.Context) error {
	return a.vol.wrapError("detach", "", a.d.Detach(ctx))
}
