package core

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/internal/budget"
)

// WriteJSON answers with v as JSON. The memory of a large answer is taken from the budget first.
func WriteJSON(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if a, ok := w.(*pacedResponse); ok && a.memory != nil && a.status == 0 && status < http.StatusBadRequest {
		if err := a.memory.acquireBuffer(a.ctx, int64(len(b))); err != nil {
			return err
		}
	}
	setJSONHeader(w.Header())
	if a, ok := w.(*pacedResponse); ok && a.http2 { // flushSmallAnswer flushes before net/http knows the length
		w.Header().Set("Content-Length", strconv.Itoa(len(b)+1))
	}
	w.WriteHeader(status)
	_, err = w.Write(append(b, '\n'))
	return err
}

// setJSONHeader sets the header of every JSON answer.
func setJSONHeader(h http.Header) {
	for name, v := range jsonHeader {
		h.Set(name, v)
	}
}

// AnswerJSON is WriteJSON unless err is set, which it returns.
func AnswerJSON(w http.ResponseWriter, status int, v any, err error) error {
	if err != nil {
		return err
	}
	return WriteJSON(w, status, v)
}

// AnswerNoContent answers a change that has nothing to say, unless err is set, which it returns.
func AnswerNoContent(w http.ResponseWriter, err error) error {
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}

// JSONArray streams an answer whose elements are in one JSON array, so that memory does not grow
// with their number. Until its buffer is flushed for the first time, an error can still be
// answered with its status; after that it breaks the answer off.
type JSONArray struct {
	w           *bufio.Writer
	enc         *json.Encoder
	begin, end  string // the text around the elements
	hasElements bool
}

// NewJSONArray begins an answer. begin is all before the first element, end all after the last.
func NewJSONArray(w http.ResponseWriter, begin, end string) *JSONArray {
	setJSONHeader(w.Header())
	b := bufio.NewWriterSize(w, 64<<10)
	// The encoder ends each element with a newline, which JSON allows between elements.
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	return &JSONArray{w: b, enc: enc, begin: begin, end: end}
}

// Add appends an element.
func (a *JSONArray) Add(v any) error {
	separator := ","
	if !a.hasElements {
		a.hasElements, separator = true, a.begin
	}
	_, _ = a.w.WriteString(separator) // its error comes again with Encode
	return a.enc.Encode(v)
}

// Close ends the array and flushes it.
func (a *JSONArray) Close() error {
	if !a.hasElements {
		_, _ = a.w.WriteString(a.begin) // its error comes again with Flush
	}
	_, _ = a.w.WriteString(a.end + "\n")
	return a.w.Flush()
}

// ContentETag identifies a version of a file's content: it differs after every change, by ctime
// at least.
func ContentETag(e vole.Entry) string {
	return fmt.Sprintf("\"%x-%x-%x-%x\"", e.Inode, e.Size, e.Mtime.UnixNano(), e.Ctime.UnixNano())
}

// ServeFile answers with an open file, or with the ranges of it that the request asks for.
// Browsers are told to download it and not to guess its type: a file must never run as a page of
// the server. With versioned the answer tells the version, by which requests may be conditional.
func ServeFile(w http.ResponseWriter, r *Request, h *vole.File, versioned bool) error {
	e, err := h.Stat(r.Context())
	if err != nil {
		return err
	}
	head := w.Header()
	head.Set("Content-Type", api.TypeBytes)
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Content-Disposition", "attachment")
	var modified time.Time
	if versioned {
		modified = e.Mtime
		head.Set("Etag", ContentETag(e))
	}
	return NewFileSource(r.Context(), h, e.Size).serveContent(w, r, modified)
}

// readBody reads the body into rawBody, unless fingerprint did so already.
func (r *Request) readBody() (err error) {
	if r.rawBody == nil {
		r.rawBody, err = io.ReadAll(r.Body)
	}
	return err
}

// ReadJSON decodes the body into v. Fields that v does not have are refused unless lax is set.
func (r *Request) ReadJSON(v any, lax bool) error {
	err := r.readBody()
	if err == nil {
		err = r.reserveForJSON(r.rawBody)
	}
	dec := json.NewDecoder(bytes.NewReader(r.rawBody))
	if !lax {
		dec.DisallowUnknownFields()
	}
	if err == nil {
		err = dec.Decode(v)
	}
	if err == nil && dec.More() {
		return invalidRequest("the body continues after its JSON value; send one value")
	}
	own := errors.As(err, new(*http.MaxBytesError)) || errors.As(err, new(*Error)) || errors.As(err, new(*budget.Error))
	if err == nil || own || r.Context().Err() != nil {
		return errors.Join(err, context.Cause(r.Context()))
	}
	return invalidRequest("cannot decode the JSON of the body: %v", err)
}
