package api

import (
	"net/http"

	"github.com/volehq/vole/driver"
)

// Codes of errors. They are stable: clients decide by them. openapi.yaml documents them.
const (
	// Codes that only a server uses.
	CodeUnauthenticated     = "unauthenticated"
	CodeForbidden           = "forbidden"
	CodeRateLimited         = "rate_limited"
	CodeTooLarge            = "too_large"
	CodePreconditionFailed  = "precondition_failed"
	CodeRangeNotSatisfiable = "range_not_satisfiable"
	CodeUnsupportedEncoding = "unsupported_encoding"
	CodeDigestMismatch      = "digest_mismatch"
	CodeWrongOffset         = "wrong_offset"
	CodeListingEnded        = "listing_ended"
	CodeUnknownSession      = "unknown_session"
	CodeOutcomeUnknown      = "outcome_unknown"
	CodeLastKey             = "last_key"
	// The database or the storage failed. The server has retried for a while, and how far the
	// request came is not known: CodeUnavailable, in contrast, promises that nothing was done.
	CodeDatabaseUnavailable = "database_unavailable"
	CodeStorageUnavailable  = "storage_unavailable"

	// Codes of package driver's table, which servers also use on their own.
	CodeNotFound       = "not_found" // no such route, key, organisation or upload
	CodeVolumeNotFound = "volume_not_found"
	CodeFileNotFound   = "file_not_found"
	CodeAlreadyExists  = "already_exists"
	CodeInUse          = "in_use"
	CodeQuotaExceeded  = "quota_exceeded"
	CodeNoSpace        = "no_space"
	CodePathEscape     = "path_escape"
	CodeNotADirectory  = "not_a_directory"
	CodeIsADirectory   = "is_a_directory"
	CodeNotEmpty       = "not_empty"
	CodeTooManyLinks   = "too_many_links"
	CodeNoSuchXattr    = "no_such_xattr"
	CodeReadOnly       = "read_only"
	CodePermission     = "permission_denied"
	CodeUnsupported    = "unsupported"
	CodeCorrupt        = "corrupt"
	CodeInvalidRequest = "invalid_request"
	CodeClosed         = "closed"
	CodeUnavailable    = "unavailable"
	CodeTimeout        = "timeout"
	CodeCanceled       = "canceled"
	CodeInternal       = "internal"
)

// ErrStale is the kind of an error that says that a session, file system, handle or listing
// is not open at the server any more. Its holder opens it again.
var ErrStale = driver.Errorf(driver.ErrClosed, "the server does not have this open any more")

// codeInfo is what a code means.
type codeInfo struct {
	status int   // of HTTP
	kind   error // what the error matches in a client; nil: no sentinel fits
}

// codeTable has every code of the API. Those of package driver mean what they mean there.
var codeTable = addDriverCodes(map[string]codeInfo{
	CodeInternal:            {http.StatusInternalServerError, nil},
	CodeUnauthenticated:     {http.StatusUnauthorized, driver.ErrPermission},
	CodeForbidden:           {http.StatusForbidden, driver.ErrPermission},
	CodeRateLimited:         {http.StatusTooManyRequests, driver.ErrUnavailable},
	CodeTooLarge:            {http.StatusRequestEntityTooLarge, driver.ErrInvalid},
	CodePreconditionFailed:  {http.StatusPreconditionFailed, driver.ErrExists},
	CodeRangeNotSatisfiable: {http.StatusRequestedRangeNotSatisfiable, driver.ErrInvalid},
	CodeUnsupportedEncoding: {http.StatusUnsupportedMediaType, driver.ErrInvalid},
	CodeDigestMismatch:      {http.StatusBadRequest, driver.ErrInvalid},
	CodeWrongOffset:         {http.StatusConflict, driver.ErrInvalid},
	CodeListingEnded:        {http.StatusGone, ErrStale},
	CodeUnknownSession:      {http.StatusGone, ErrStale},
	CodeOutcomeUnknown:      {http.StatusConflict, driver.ErrUnavailable},
	CodeLastKey:             {http.StatusConflict, driver.ErrInUse},
	CodeDatabaseUnavailable: {http.StatusServiceUnavailable, driver.ErrUnavailable},
	CodeStorageUnavailable:  {http.StatusServiceUnavailable, driver.ErrUnavailable},
})

// addDriverCodes adds the codes of package driver to those that only a server uses.
func addDriverCodes(table map[string]codeInfo) map[string]codeInfo {
	for _, c := range driver.Classes() {
		table[c.Code] = codeInfo{c.HTTP, c.Err}
	}
	return table
}

// CodeStatus returns the HTTP status that goes with a code, 500 for one that the API lacks.
func CodeStatus(code string) int {
	if info, ok := codeTable[code]; ok {
		return info.status
	}
	return http.StatusInternalServerError
}

// CodeKind returns the error that a code stands for in a client, nil if it stands for none.
func CodeKind(code string) error { return codeTable[code].kind }
