package blob

import "encoding/hex"

const (
	// MaxSize is the most bytes of one blob.
	MaxSize = 8 << 20
	// SumSize is how many bytes of a blob one checksum covers. Reads are aligned to it.
	SumSize = 64 << 10
)

// OrgPrefix begins the keys of all objects of an organisation.
func OrgPrefix(org []byte) string { return "o/" + hex.EncodeToString(org) + "/" }

// Key returns the key of a blob's object.
func Key(org, id []byte) string {
	// A UUIDv7 begins with the time. Its last byte is random, and spreads keys over prefixes.
	h := hex.EncodeToString(id)
	return OrgPrefix(org) + "b/" + h[len(h)-2:] + "/" + h
}
