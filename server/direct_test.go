package server_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/internal/testing/servers"
	"github.com/volehq/vole/server"
)

// partOf describes bytes as a part of a file.
func partOf(data []byte, offset int64) api.Part {
	table := crc32.MakeTable(crc32.Castagnoli)
	p := api.Part{Offset: offset, Size: int64(len(data)), Crc32C: int64(crc32.Checksum(data, table))}
	for len(data) > 0 {
		n := min(len(data), 64<<10)
		p.Crc32Cs = binary.BigEndian.AppendUint32(p.Crc32Cs, crc32.Checksum(data[:n], table))
		data = data[n:]
	}
	return p
}

// signed makes a presigned request.
func signed(t *testing.T, r api.Presigned, body []byte) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), r.Method, r.URL, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range r.Headers {
		req.Header.Set(name, v)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: status %d, %v: %s", r.Method, res.StatusCode, err, b)
	}
	return b
}

// Bytes go from the client to S3 and back without the server, which has no part in it but
// the names.
func TestDirect(t *testing.T) {
	t.Parallel()
	s3 := servers.S3(t)
	c := startNativeWith(t, server.Options{MaxFile: 16 << 20, Bucket: &bucket.Options{Database: servers.PG(t), Conns: 8, S3: &bucket.S3{
		Endpoint: s3.Endpoint, Region: s3.Region, Bucket: s3.Bucket, AccessKey: s3.AccessKey, SecretKey: s3.SecretKey, PathStyle: true,
	}}})
	c.wantStatus(201, "POST", "/volumes", nil, `{"name":"v"}`, nil)
	data := randomBytes(9 << 20)
	list := []api.Part{partOf(data[:8<<20], 0), partOf(data[8<<20:], 8<<20)}
	ask, _ := json.Marshal(api.ReserveParts{Parts: list})
	var got api.Reserved
	c.wantStatus(200, "POST", "/volumes/v/direct/reserve", nil, string(ask), &got)
	for i, p := range got.Parts {
		if strings.Contains(p.Put.URL, s3.SecretKey) {
			t.Error("the secret key of S3 is in the URL")
		}
		signed(t, p.Put, data[list[i].Offset:list[i].Offset+list[i].Size])
		list[i].Blob = p.Blob
	}
	c.boundDirectly(list, 16<<20)
	const hole = 1 << 20
	commit, _ := json.Marshal(api.CommitParts{Path: "big", Size: int64(len(data)) + hole, Mode: "600", Parts: list})
	c.wantStatus(200, "POST", "/volumes/v/direct/commit", nil, string(commit), nil)
	c.wantError(400, "invalid_request", "POST", "/volumes/v/direct/commit", nil, string(commit))
	whole := string(data) + string(make([]byte, hole))
	c.wantContent("big", whole)
	c.located("big", whole)
}

// boundDirectly tries to make a file beyond the server's limit of parts that were put.
func (c *client) boundDirectly(list []api.Part, limit int64) {
	c.t.Helper()
	beyond, _ := json.Marshal(api.ReserveParts{Parts: []api.Part{partOf([]byte("x"), limit+1)}})
	c.wantError(413, "too_large", "POST", "/volumes/v/direct/reserve", nil, string(beyond))
	commit, _ := json.Marshal(api.CommitParts{Path: "large", Size: limit + 1, Mode: "600", Parts: list})
	c.wantError(413, "too_large", "POST", "/volumes/v/direct/commit", nil, string(commit))
	c.wantError(404, "file_not_found", "GET", "/volumes/v/stat", pathQuery("large"), "")
}

// located fetches a file from where the server says its bytes are.
func (c *client) located(p, want string) {
	c.t.Helper()
	got := make([]byte, len(want))
	q := pathQuery(p)
	for {
		var l api.Located
		c.wantStatus(200, "GET", "/volumes/v/direct", q, "", &l)
		for _, r := range l.Ranges {
			b := r.Data
			if r.Get != nil {
				b = signed(c.t, *r.Get, nil)[r.ObjectOffset:]
			}
			copy(got[r.Offset:], b[:r.Length])
		}
		if l.Next == 0 {
			break
		}
		q.Set("offset", strconv.FormatInt(l.Next, 10))
	}
	if string(got) != want {
		c.t.Errorf("%s: what is in S3 is not what the file holds", p)
	}
}
