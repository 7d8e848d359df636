package transfer

import (
	"archive/tar"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// Types of entries that archive/tar has no names for. POSIX leaves capital letters to
// implementations: https://www.gnu.org/software/tar/manual/html_node/Extensions.html, and
// Solaris's tar.h.
const (
	typeDumpDir    = 'D' // GNU, --listed-incremental: a directory; its data lists its entries
	typeVolume     = 'V' // GNU, --label: a name for the archive
	typeMultiple   = 'M' // GNU, --multi-volume: the rest of a file of the volume before
	typeOldNames   = 'N' // GNU, long ago: names for other entries
	typeSolarisACL = 'A'
	typeSolarisEA  = 'E'
	typeSolarisIno = 'I'
	typeSolarisPAX = 'X' // as 'x', which sparseFilter makes of it
)

// skipsEntry reports whether an entry stands for no file, and makes of the others types that
// entry knows: POSIX takes an unknown one for a regular file.
func (c *copier) skipsEntry(hdr *tar.Header) (bool, error) {
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeLink, tar.TypeDir, tar.TypeSymlink, tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
	case typeVolume:
		return true, nil
	case typeSolarisACL, typeSolarisEA:
		c.opts.lost.system.Add(1)
		return true, nil
	case typeOldNames, typeSolarisIno:
		c.opts.warnf("tar entry %q of type %q is skipped", hdr.Name, hdr.Typeflag)
		return true, nil
	case typeMultiple:
		return false, driver.Errorf(vole.ErrUnsupported, "the archive has several volumes; join them first")
	case typeDumpDir:
		hdr.Typeflag = tar.TypeDir
	default:
		c.opts.warnf("tar entry %q of unknown type %q is taken for a regular file", hdr.Name, hdr.Typeflag)
		hdr.Typeflag = tar.TypeReg
	}
	return false, nil
}

// maxGlobals bounds the bytes of global records that are kept.
const maxGlobals = 1 << 20

// globalRecords are what global extended headers say of all entries behind them: owners,
// time and attributes. A size, a name or a map for many files makes no sense.
type globalRecords struct {
	records map[string]string
	bytes   int
}

// addRecords keeps the records of a global header that apply to more than one file.
func (g *globalRecords) addRecords(records map[string]string) error {
	for k, v := range records {
		if k != "mtime" && k != "uid" && k != "gid" && !strings.HasPrefix(k, xattrRecord) && aclRecords[k] == "" {
			continue
		}
		if g.bytes += len(k) + len(v); g.bytes > maxGlobals {
			return driver.Errorf(vole.ErrUnsupported, "global extended headers of more than %d bytes", maxGlobals)
		}
		if g.records == nil {
			g.records = map[string]string{}
		}
		g.records[k] = v
	}
	return nil
}

// applyTo gives an entry what its own extended header does not say.
func (g *globalRecords) applyTo(hdr *tar.Header) error {
	if len(g.records) == 0 {
		return nil
	}
	own := hdr.PAXRecords
	hdr.PAXRecords = maps.Clone(g.records)
	maps.Copy(hdr.PAXRecords, own)
	for k, v := range g.records {
		if _, ok := own[k]; ok {
			continue
		}
		var err error
		switch k {
		case "mtime":
			hdr.ModTime, err = parsePAXTime(v)
		case "uid":
			hdr.Uid, err = strconv.Atoi(v)
		case "gid":
			hdr.Gid, err = strconv.Atoi(v)
		}
		if err != nil {
			return driver.Errorf(vole.ErrInvalid, "global extended header: %s is %q", k, v)
		}
	}
	return nil
}

// parsePAXTime is the opposite; digits beyond nanoseconds are cut.
func parsePAXTime(s string) (time.Time, error) {
	whole, fraction, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	ns, err := strconv.ParseUint((fraction + "000000000")[:9], 10, 32)
	if err != nil {
		return time.Time{}, err
	}
	if strings.HasPrefix(whole, "-") {
		return time.Unix(sec, -int64(ns)), nil
	}
	return time.Unix(sec, int64(ns)), nil
}
