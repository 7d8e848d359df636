package server

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// apiDoc is openapi.json, as far as the tests need it.
type apiDoc struct {
	root map[string]any
	ops  []*apiOp
}

// apiOp is one operation of the description.
type apiOp struct {
	method, path, id, scope, tag string
	public                       bool // needs no key
	params                       []apiParam
	body                         map[string]any // content by media type
	responses                    map[string]any
}

type apiParam struct {
	name, in string
	required bool
	schema   map[string]any
}

var apiMethods = []string{"get", "put", "post", "delete", "patch"}

// describedAPI parses the description that is compiled in.
func describedAPI(t testing.TB) *apiDoc {
	t.Helper()
	d := &apiDoc{}
	if err := json.Unmarshal(openapi, &d.root); err != nil {
		t.Fatal(err)
	}
	paths := d.root["paths"].(map[string]any)
	for _, path := range sortedKeys(paths) {
		item := paths[path].(map[string]any)
		for _, method := range apiMethods {
			if op, ok := item[method].(map[string]any); ok {
				d.ops = append(d.ops, d.operation(method, path, item, op))
			}
		}
	}
	return d
}

func (d *apiDoc) operation(method, path string, item, op map[string]any) *apiOp {
	o := &apiOp{method: strings.ToUpper(method), path: path, responses: map[string]any{}}
	o.id, _ = op["operationId"].(string)
	o.scope, _ = op["x-scope"].(string)
	if tags, _ := op["tags"].([]any); len(tags) > 0 {
		o.tag, _ = tags[0].(string)
	}
	if sec, ok := op["security"].([]any); ok && len(sec) == 0 {
		o.public = true
	}
	both, _ := item["parameters"].([]any)
	own, _ := op["parameters"].([]any)
	for _, p := range append(slices.Clone(both), own...) {
		m := d.resolveRef(p)
		x := apiParam{schema: d.resolveRef(m["schema"])}
		x.name, _ = m["name"].(string)
		x.in, _ = m["in"].(string)
		x.required, _ = m["required"].(bool)
		o.params = append(o.params, x)
	}
	if body := d.resolveRef(op["requestBody"]); body != nil {
		o.body, _ = body["content"].(map[string]any)
	}
	responses, _ := op["responses"].(map[string]any)
	for status, r := range responses {
		o.responses[status] = d.resolveRef(r)
	}
	return o
}

func sortedKeys[V any](m map[string]V) []string {
	list := make([]string, 0, len(m))
	for k := range m {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}

// resolveRef follows a reference. What is no object, and what leads nowhere, is nil.
func (d *apiDoc) resolveRef(v any) map[string]any {
	m, _ := v.(map[string]any)
	for range 10 {
		ref, ok := m["$ref"].(string)
		if !ok {
			return m
		}
		var at any = d.root
		for part := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
			o, _ := at.(map[string]any)
			at = o[part]
		}
		m, _ = at.(map[string]any)
	}
	return nil
}

func (o *apiOp) param(name string) *apiParam {
	for i := range o.params {
		if o.params[i].name == name {
			return &o.params[i]
		}
	}
	return nil
}

// answer is the schema of an answer's JSON. nothing: the answer has no body; otherwise a
// nil schema means bytes or text.
func (o *apiOp) answer(d *apiDoc, status int) (schema map[string]any, media []string, known bool) {
	r, ok := o.responses[fmt.Sprint(status)].(map[string]any)
	if !ok && status >= 400 {
		r, ok = o.responses["default"].(map[string]any)
	}
	if !ok {
		return nil, nil, false
	}
	content, _ := r["content"].(map[string]any)
	if j, ok := content["application/json"].(map[string]any); ok {
		schema = d.resolveRef(j["schema"])
	}
	return schema, sortedKeys(content), true
}

// checkSchema checks a value against a schema. Unlike JSON Schema it refuses properties that
// are not declared: the server promises no more than it describes.
func (d *apiDoc) checkSchema(at string, s map[string]any, v any) error {
	s = d.resolveRef(s)
	if len(s) == 0 {
		return nil
	}
	if list, ok := s["enum"].([]any); ok && !slices.Contains(list, v) {
		return fmt.Errorf("%s: %v is none of %v", at, v, list)
	}
	switch kind := s["type"]; kind {
	case "object":
		m, ok := v.(map[string]any)
		if !ok {
			return fmt.Errorf("%s: %T is no object", at, v)
		}
		return d.checkObject(at, s, m)
	case "array":
		list, ok := v.([]any)
		if !ok {
			return fmt.Errorf("%s: %T is no array", at, v)
		}
		for i, x := range list {
			if err := d.checkSchema(fmt.Sprintf("%s[%d]", at, i), d.resolveRef(s["items"]), x); err != nil {
				return err
			}
		}
		return checkRange(at, s, "minItems", "maxItems", float64(len(list)))
	case "string":
		x, ok := v.(string)
		if !ok {
			return fmt.Errorf("%s: %T is no string", at, v)
		}
		return checkString(at, s, x)
	case "integer", "number":
		x, ok := v.(float64)
		if !ok || kind == "integer" && x != math.Trunc(x) {
			return fmt.Errorf("%s: %v is no %s", at, v, kind)
		}
		return checkRange(at, s, "minimum", "maximum", x)
	case "boolean":
		if _, ok := v.(bool); !ok {
			return fmt.Errorf("%s: %T is no boolean", at, v)
		}
		return nil
	default:
		return fmt.Errorf("%s: the schema has the type %v", at, kind)
	}
}

func (d *apiDoc) checkObject(at string, s, m map[string]any) error {
	required, _ := s["required"].([]any)
	for _, name := range required {
		if _, ok := m[name.(string)]; !ok {
			return fmt.Errorf("%s.%s is missing", at, name)
		}
	}
	props, declared := s["properties"].(map[string]any)
	more, open := s["additionalProperties"].(map[string]any)
	for name, x := range m {
		sub := d.resolveRef(props[name])
		switch {
		case sub != nil:
		case open:
			sub = more
		case !declared: // any object
			continue
		default:
			return fmt.Errorf("%s.%s is not described", at, name)
		}
		if err := d.checkSchema(at+"."+name, sub, x); err != nil {
			return err
		}
	}
	return checkRange(at, s, "minProperties", "maxProperties", float64(len(m)))
}

func checkString(at string, s map[string]any, v string) error {
	var err error
	switch s["format"] {
	case "date-time":
		_, err = time.Parse(time.RFC3339Nano, v)
	case "uuid":
		err = uuid.Validate(v)
	case "byte":
		_, err = base64.StdEncoding.DecodeString(v)
	}
	if p, ok := s["pattern"].(string); ok && err == nil && !regexp.MustCompile(p).MatchString(v) {
		err = fmt.Errorf("does not match %s", p)
	}
	if err != nil {
		return fmt.Errorf("%s: %q: %v", at, v, err)
	}
	return checkRange(at, s, "minLength", "maxLength", float64(utf8.RuneCountInString(v)))
}

func checkRange(at string, s map[string]any, low, high string, n float64) error {
	if l, ok := s[low].(float64); ok && n < l {
		return fmt.Errorf("%s: %v is less than the %s, %v", at, n, low, l)
	}
	if h, ok := s[high].(float64); ok && n > h {
		return fmt.Errorf("%s: %v is more than the %s, %v", at, n, high, h)
	}
	return nil
}
