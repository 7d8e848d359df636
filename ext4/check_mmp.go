package ext4

// The block against mounting twice (mmp.c of Linux).
const (
	mmpMagic    = 0x004d4d50
	mmpChecksum = 1020
)

// checkMMPBlock checks the block that a host updates while it has the file system mounted.
func (c *checker) checkMMPBlock() {
	if c.sb.incompat&incompatMMP == 0 {
		return
	}
	at := le.Uint64(c.sb.raw[sbMMPBlock:])
	if !c.containsBlocks(at, 1) {
		c.reportSuper(ProblemMMP, "the MMP block is block %d, which does not exist", at)
		return
	}
	b := c.readMetadata(at)
	switch {
	case b == nil:
	case le.Uint32(b) != mmpMagic:
		c.reportProblem(Problem{Code: ProblemMMP, Block: at, Group: -1, Detail: "wrong magic number"})
	case c.sb.metadataCsum && crc32c(c.sb.csumSeed, b[:mmpChecksum]) != le.Uint32(b[mmpChecksum:]):
		c.reportProblem(Problem{Code: ProblemMMP, Block: at, Group: -1, Detail: "wrong checksum"})
	}
}
