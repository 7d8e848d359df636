package core

import "github.com/volehq/vole"

// volumeStep is how many volumes are read before their memory is counted.
const volumeStep = 32

// EachVolume calls fn with all volumes that the caller sees, newest first. What is read and
// not yet handed over counts in the memory of the organisation.
func (r *Request) EachVolume(fn func(i vole.Info) error) error {
	store, err := r.Store()
	if err != nil {
		return err
	}
	filter := vole.Filter{Limit: volumeStep}
	for {
		page, err := store.List(r.Context(), filter)
		if err != nil {
			return err
		}
		if err := r.visitBatch(page.Volumes, fn); err != nil || page.Next == "" {
			return err
		}
		filter.Cursor = page.Next
	}
}

func (r *Request) visitBatch(list []vole.Info, fn func(i vole.Info) error) error {
	size := int64(0)
	for _, i := range list {
		size += VolumeMemorySize(i)
	}
	release, err := r.BorrowMemory(size)
	if err != nil {
		return err
	}
	defer release()
	for _, i := range list {
		if r.Caller.Sees(i.ID) {
			if err := fn(i); err != nil {
				return err
			}
		}
	}
	return nil
}

// VolumeMemorySize is about what a volume takes in an answer, in bytes: as a value and as JSON.
func VolumeMemorySize(i vole.Info) int64 {
	n := int64(1024)
	for k, v := range i.Labels {
		n += int64(2*len(k) + 2*len(v) + 64)
	}
	return n
}
