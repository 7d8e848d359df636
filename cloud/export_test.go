package cloud

import "time"

// SetSilence sets how long a server may say nothing.
func (b *Backend) SetSilence(d time.Duration) { b.silence = d }
