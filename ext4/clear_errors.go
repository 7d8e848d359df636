package ext4

// sbErrorsEnd ends the superblock's record of errors: their count, and the first and last
// one.
const sbErrorsEnd = 0x200

// ClearErrors forgets that errors were found in a file system before, which otherwise keeps
// [Open] from it. It is for an image in which [Check] found nothing else. size is that of
// the image; 0: what the device says, if it is an [*os.File].
func ClearErrors(dev Device, size int64) error {
	if size == 0 {
		size = deviceSize(dev)
	}
	sb, fromBackup, err := loadSuperblock(dev, size)
	if err != nil {
		return err
	}
	state := le.Uint16(sb.raw[sbState:])
	if fromBackup || state&stateErrors == 0 && le.Uint32(sb.raw[sbErrorCount:]) == 0 {
		return nil
	}
	le.PutUint16(sb.raw[sbState:], state&^stateErrors|stateClean)
	clear(sb.raw[sbErrorCount:sbErrorsEnd])
	if sb.metadataCsum {
		le.PutUint32(sb.raw[sbChecksum:], superblockChecksum(sb.raw))
	}
	if _, err := dev.WriteAt(sb.raw, superOffset); err != nil {
		return err
	}
	return dev.Sync()
}
