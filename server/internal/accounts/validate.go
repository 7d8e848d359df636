package accounts

import (
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/volehq/vole/driver"
)

// Limits of stored values, in bytes unless stated otherwise.
const (
	maxTextLen        = 128 // of a name
	maxVolumes        = 256 // volumes that a key may be restricted to
	maxIdempotencyKey = 255 // of the key of an idempotent request
	maxFingerprint    = 256
	maxResult         = 1 << 20 // of the result of an idempotent request
	maxField          = 255     // of most fields of an audit record; longer ones are clipped
	maxDetail         = 2048    // of its detail
)

// latestTime bounds times: those that are stored as nanoseconds end in 2262.
var latestTime = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

// quoteClipped quotes client input for a message of bounded length.
func quoteClipped(s string) string { return strconv.Quote(clipText(s, 40)) }

// clipText returns at most n bytes of s as valid UTF-8 without NUL, which every database takes.
func clipText(s string, n int) string {
	if len(s) > n {
		// Not in the middle of a rune, which has at most three bytes after the first.
		for i := 0; i < 3 && n > 0 && !utf8.RuneStart(s[n]); i++ {
			n--
		}
		s = s[:n]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "?")
}

func validateOrg(org string) error {
	if driver.ValidateName(org) != nil {
		return driver.Errorf(driver.ErrInvalid,
			"organisation %s: a name is 1 to %d letters, digits, '.', '_' and '-', and starts with a letter or digit", quoteClipped(org), driver.MaxNameLen)
	}
	return nil
}

// validateText checks that s is least to most bytes of printable UTF-8.
func validateText(what, s string, least, most int) error {
	if len(s) < least || len(s) > most || !isPrintable(s) {
		return driver.Errorf(driver.ErrInvalid, "%s is %d to %d bytes of printable UTF-8, not %s", what, least, most, quoteClipped(s))
	}
	return nil
}

func isPrintable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// validateVolumes checks the volumes that a key is restricted to. An empty list that is not nil
// is refused: it could mean no volume, and would be stored as all.
func validateVolumes(list []string) error {
	if list != nil && len(list) == 0 {
		return driver.Errorf(driver.ErrInvalid, "the list of volumes is empty; leave it out for a key of all volumes")
	}
	if len(list) > maxVolumes {
		return driver.Errorf(driver.ErrInvalid, "%d volumes; a key may be restricted to at most %d", len(list), maxVolumes)
	}
	for _, id := range list {
		if err := validateVolume(id); err != nil {
			return err
		}
	}
	return nil
}

func validateVolume(id string) error {
	if _, err := parseCanonicalID(id); err != nil {
		return driver.Errorf(driver.ErrInvalid, "%s is not the id of a volume; write it as in 01890a5d-ac96-774b-bcce-b302099a8057", quoteClipped(id))
	}
	return nil
}

// parseCanonicalID is uuid.Parse, but accepts only the canonical form: 36 bytes in lower case.
func parseCanonicalID(id string) (uuid.UUID, error) {
	u, err := uuid.Parse(clipText(id, 64))
	if err == nil && u.String() != id {
		err = driver.ErrInvalid
	}
	return u, err
}

// sortedDistinct returns the ids sorted and without repetitions. nil stays nil.
func sortedDistinct(list []string) []string {
	if list == nil {
		return nil
	}
	return slices.Compact(slices.Sorted(slices.Values(list)))
}
