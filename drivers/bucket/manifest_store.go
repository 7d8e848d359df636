package bucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/volehq/vole/drivers/bucket/internal/blob"
	"github.com/volehq/vole/drivers/bucket/internal/manifest"
)

// readManifest reads all of a manifest in the store, and calls fn with each record. ErrCorrupt,
// with the line: the manifest is damaged or incomplete.
func (ns *Namespace) readManifest(ctx context.Context, org, vol []byte, generation int64, fn func(r *manifest.Record) error) (head manifest.Head, err error) {
	key := manifest.Key(org, vol, generation)
	ctx, cancel := context.WithCancel(ctx) // ends the stream
	defer cancel()
	obj, err := ns.blobs.Open(ctx, key)
	if err == nil {
		defer obj.Close()
		head, err = manifest.Read(obj, org, vol, generation, fn)
	}
	if err != nil {
		err = fmt.Errorf("manifest %s: %w", key, err)
	}
	return head, err
}

// readManifestSum reads all of a manifest and returns the sum in its trailer.
func (ns *Namespace) readManifestSum(ctx context.Context, org, vol []byte, generation int64) (sum string, err error) {
	_, err = ns.readManifest(ctx, org, vol, generation, func(r *manifest.Record) error {
		if r.End != nil {
			sum = r.End.SHA256
		}
		return nil
	})
	return sum, err
}

// manifestUpload is the upload of an object that is being written. It implements io.Writer.
type manifestUpload struct {
	w    *io.PipeWriter
	done chan error
	size int64
}

// startManifestUpload starts the upload of an object. The caller writes to it and calls
// finishUpload.
func (ns *Namespace) startManifestUpload(ctx context.Context, key string) *manifestUpload {
	r, w := io.Pipe()
	u := &manifestUpload{w: w, done: make(chan error, 1)}
	go func() {
		err := ns.blobs.Write(ctx, key, r)
		// The writer must not block once the upload has ended.
		r.CloseWithError(errors.Join(err, io.ErrClosedPipe))
		u.done <- err
	}()
	return u
}

func (u *manifestUpload) Write(p []byte) (int, error) {
	n, err := u.w.Write(p)
	u.size += int64(n)
	return n, err
}

// finishUpload ends the upload and returns the size. With an error nothing is stored.
func (u *manifestUpload) finishUpload(err error) (int64, error) {
	u.w.CloseWithError(err) // nil: the end
	stored := <-u.done
	if err == nil || errors.Is(err, io.ErrClosedPipe) && stored != nil {
		err = stored // the cause
	}
	return u.size, err
}

// manifestList lists the manifests of an organisation in the store, volume by volume in the
// order of their ids.
type manifestList struct {
	next        func() (blob.Info, error, bool)
	stop        func()
	vol         []byte              // id of the current volume; nil: there are no more
	generations []int64             // of the volume's manifests, ascending as the keys are
	pendingKey  *manifest.ParsedKey // the first key of the next volume, which has been read already
	err         error
}

// listManifests starts a listing. The caller calls stop.
func (ns *Namespace) listManifests(ctx context.Context, org []byte) *manifestList {
	l := &manifestList{}
	l.next, l.stop = iter.Pull2(ns.blobs.List(ctx, manifest.Prefix(org)))
	l.nextVolume()
	return l
}

// nextVolume goes on to the next volume.
func (l *manifestList) nextVolume() {
	l.vol, l.generations = nil, nil
	if l.pendingKey != nil {
		l.vol, l.generations, l.pendingKey = l.pendingKey.ID, []int64{l.pendingKey.Generation}, nil
	}
	for {
		info, err, ok := l.next()
		if err != nil {
			l.vol, l.err = nil, err // a partial list must not be used
			return
		}
		if !ok {
			return
		}
		switch key, ok := manifest.ParseKey(info.Key); {
		case !ok || !key.IsManifest:
		case l.vol == nil:
			l.vol, l.generations = key.ID, []int64{key.Generation}
		case bytes.Equal(key.ID, l.vol):
			l.generations = append(l.generations, key.Generation)
		default:
			l.pendingKey = &key
			return
		}
	}
}

// takeGenerations returns the generations in the store of a volume, and whether they are
// known. Volumes are asked for in the order of ids.
func (l *manifestList) takeGenerations(vol []byte) ([]int64, bool) {
	if !bytes.Equal(l.vol, vol) {
		return nil, l.err == nil
	}
	gens := l.generations
	l.nextVolume()
	return gens, true
}
