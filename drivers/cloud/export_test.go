package cloud

import "time"

// SetSilence sets how long a server may say nothing.
func (b *Backend) SetSilence(d time.Duration) { b.maxSilence = d }

// SetCloseWait sets how long the first request that closes something may take.
func (b *Backend) SetCloseWait(d time.Duration) { b.closeTimeout = d }
