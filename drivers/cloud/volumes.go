package cloud

import (
	"context"
	"net/url"
	"strconv"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
)

// volumePath returns the path of a route of a volume, which id or name denotes.
func volumePath(volume string, rest ...string) string {
	p := "/volumes/" + url.PathEscape(volume)
	for _, r := range rest {
		p += "/" + r
	}
	return p
}

// Create implements driver.Backend.
func (b *Backend) Create(ctx context.Context, name string, spec driver.Spec) (driver.Info, error) {
	if err := b.checkWritable(ctx); err != nil {
		return driver.Info{}, err
	}
	in := api.CreateVolume{Name: name, Kind: api.Kind(spec.Kind), Quota: int64(spec.Quota), Capacity: int64(spec.Capacity), Labels: api.Labels(spec.Labels), From: spec.From}
	c := call{method: "POST", path: "/volumes", keyed: true, repeatable: true, longRunning: spec.From != ""}
	if spec.Draft {
		s, err := b.ensureSession(ctx)
		if err != nil {
			return driver.Info{}, err
		}
		in.DraftOf, c.server = s.id, s.server
	}
	return b.sendVolumeCall(ctx, c, in)
}

// sendVolumeCall makes a request whose response describes a volume. All but GET need a writable
// Backend.
func (b *Backend) sendVolumeCall(ctx context.Context, c call, in any) (driver.Info, error) {
	check := b.checkWritable
	if c.method == "GET" {
		check = b.checkOpen
	}
	var v api.Volume
	err := check(ctx)
	if err == nil {
		err = b.sendJSON(ctx, c, in, &v)
	}
	if err != nil {
		return driver.Info{}, err
	}
	return v.Info().At("cloud", ""), nil
}

// volumeRefQuery returns the id or name of a volume, and the query that says which of them it is.
func volumeRefQuery(ref driver.Ref) (string, url.Values) {
	if ref.ID != "" {
		return ref.ID, url.Values{"by": {"id"}}
	}
	return ref.Name, url.Values{"by": {"name"}}
}

// Get implements driver.Backend.
func (b *Backend) Get(ctx context.Context, ref driver.Ref) (driver.Info, error) {
	name, q := volumeRefQuery(ref)
	return b.sendVolumeCall(ctx, call{method: "GET", path: volumePath(name), query: q, repeatable: true}, nil)
}

// List implements driver.Backend.
func (b *Backend) List(ctx context.Context, filter driver.Filter) (driver.Page, error) {
	if err := b.checkOpen(ctx); err != nil {
		return driver.Page{}, err
	}
	q := withParams(url.Values{}, "selector", filter.Selector.String(), "kind", string(filter.Kind), "cursor", filter.Cursor,
		"limit", formatFrom(1, min(filter.Limit, 1000)))
	var out api.VolumePage
	if err := b.sendJSON(ctx, call{method: "GET", path: "/volumes", query: q, repeatable: true}, nil, &out); err != nil {
		return driver.Page{}, err
	}
	if out.Next != "" && out.Next == filter.Cursor {
		return driver.Page{}, errNoAdvance
	}
	page := driver.Page{Next: out.Next, Volumes: make([]driver.Info, len(out.Volumes))}
	for i, v := range out.Volumes {
		page.Volumes[i] = v.Info().At("cloud", "")
	}
	return page, nil
}

// Update implements driver.Backend.
func (b *Backend) Update(ctx context.Context, id string, change driver.Update) (driver.Info, error) {
	in := api.UpdateVolume{Name: change.Name, Quota: int64(change.Quota), ClearQuota: change.ClearQuota, Capacity: int64(change.Capacity),
		SetLabels: api.Labels(change.SetLabels), RemoveLabels: change.RemoveLabels, Publish: change.Publish}
	// Repeating it sets the same values again.
	return b.sendVolumeCall(ctx, call{method: "PATCH", path: volumePath(id), keyed: true, repeatable: true, longRunning: true}, in)
}

// Remove implements driver.Backend.
func (b *Backend) Remove(ctx context.Context, ref driver.Ref) (driver.Info, error) {
	name, q := volumeRefQuery(ref)
	return b.sendVolumeCall(ctx, call{method: "DELETE", path: volumePath(name), query: q, keyed: true, longRunning: true}, nil)
}

// RemoveUnused implements driver.Backend. Servers that lack it refuse the parameter.
func (b *Backend) RemoveUnused(ctx context.Context, id string, since time.Time) (driver.Info, error) {
	name, q := volumeRefQuery(driver.ByID(id))
	q.Set("unused_since", since.UTC().Format(time.RFC3339Nano))
	return b.sendVolumeCall(ctx, call{method: "DELETE", path: volumePath(name), query: q, keyed: true, longRunning: true}, nil)
}

// Measure implements driver.Backend.
func (b *Backend) Measure(ctx context.Context, id string) (driver.Info, error) {
	return b.sendVolumeCall(ctx, call{method: "POST", path: volumePath(id, "measure"), repeatable: true, longRunning: true}, nil)
}

// Attachments implements driver.Backend.
func (b *Backend) Attachments(ctx context.Context, id string) ([]driver.AttachmentInfo, error) {
	if err := b.checkOpen(ctx); err != nil {
		return nil, err
	}
	q := withParams(url.Values{}, "volume", id)
	var out api.Attachments
	if err := b.sendJSON(ctx, call{method: "GET", path: "/attachments", query: q, repeatable: true}, nil, &out); err != nil {
		return nil, err
	}
	list := make([]driver.AttachmentInfo, len(out.Attachments))
	for i, a := range out.Attachments {
		list[i] = a.Info()
	}
	return list, nil
}

// Check implements driver.Backend: the server checks its volumes.
func (b *Backend) Check(ctx context.Context, opts driver.CheckOptions, report func(driver.Finding) error) error {
	if err := b.checkOpen(ctx); err != nil {
		return err
	}
	var out api.Findings
	if err := b.sendJSON(ctx, call{method: "POST", path: "/check", query: url.Values{"fix": {strconv.FormatBool(opts.Fix)}}, repeatable: true, longRunning: true}, nil, &out); err != nil {
		return err
	}
	for _, f := range out.Findings {
		if err := report(driver.Finding{Code: f.Code, Volume: f.Volume, Path: f.Path, Detail: f.Detail, Fixed: f.Fixed}); err != nil {
			return err
		}
	}
	return nil
}
