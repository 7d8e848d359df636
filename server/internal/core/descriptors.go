package core

// Descriptors divides the open files, connections and the like of a process, so that no
// organisation or key can use them up.
type Descriptors struct {
	Connections int // beyond them requests are refused, and beyond twice as many connections
	Requests    int // under way, of all keys
	OrgRequests int // of one organisation
	KeyRequests int // of one key
	OrgStreams  int // of events, of one organisation: with its requests, fewer than Connections
	Open        int // handles, file systems and attachments of all organisations
	OrgOpen     int // of one
	Listings    int // directories that are open between two pages, of all organisations
	OrgListings int // of one
}

// NewDescriptors divides limit descriptors; 0 stands for the limit of this process.
func NewDescriptors(limit int) Descriptors {
	if limit == 0 {
		limit = descriptorLimit()
	}
	part := func(n, most int) int { return max(min(limit/n, most), 8) }
	return Descriptors{
		Connections: part(5, 100_000), Requests: part(6, 8192), OrgRequests: part(9, 5461), KeyRequests: part(12, maxKeyRequests), OrgStreams: part(15, 8192),
		Open: part(5, 200_000), OrgOpen: part(10, 50_000), Listings: part(20, 16_384), OrgListings: part(40, 4096),
	}
}
