package ext4

// sbErrorsEnd ends the superblock's record of errors: their count, and the first and last
// one.
const sbErrorsEnd = 0x200

// ClearErrors clears the record of errors in the superblock, which otherwise keeps [Open]
// from opening the image. Call it only if [Check] finds nothing else. size is the size of
// the image; 0: that of the device, if it is an [*os.File].
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
	sb.setChecksum(sb.raw)
	return writeAndSync(dev, sb.raw, superOffset)
}
