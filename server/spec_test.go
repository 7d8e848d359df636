package server

import (
	"encoding/json"
	"fmt"
	"mime"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/volehq/vole/server/internal/accounts"
	"go.yaml.in/yaml/v3"
)

// TestRoutes compares the routes with the description.
func TestRoutes(t *testing.T) {
	w := startTestServer(t)
	described := map[string]*apiOp{}
	for _, op := range w.doc.ops {
		described[op.method+" "+op.path] = op
	}
	scopes := map[string][]accounts.Scope{"none": {0}, "read": {accounts.Read}, "write": {accounts.Write}, "admin": {accounts.Admin},
		"operator": {accounts.Operator}, "session": {accounts.Read, accounts.Write}}
	for _, rt := range w.native.Dialect().Routes {
		at := rt.Method + " " + rt.Path
		op := described[at]
		delete(described, at)
		if op == nil {
			t.Errorf("%s is served and not described", at)
			continue
		}
		if op.id != rt.Name {
			t.Errorf("%s is called %s and described as %s", at, rt.Name, op.id)
		}
		if !slices.Contains(scopes[op.scope], rt.Scope) {
			t.Errorf("%s takes the scope %v and is described with %q", at, rt.Scope.Strings(), op.scope)
		}
		if once := op.param("Idempotency-Key") != nil; once != rt.Idempotent {
			t.Errorf("%s: heeds an idempotency key: %v, described: %v", at, rt.Idempotent, once)
		}
		if op.public != (op.scope == "none") {
			t.Errorf("%s: no key is needed: %v, x-scope: %s", at, op.public, op.scope)
		}
	}
	for at := range described {
		t.Errorf("%s is described and not served", at)
	}
}

// TestOpenAPIJSON: openapi.json is openapi.yaml in other words.
func TestOpenAPIJSON(t *testing.T) {
	text, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := yaml.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var want any
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	if got := describedAPI(t).root; !reflect.DeepEqual(any(got), want) {
		t.Error("openapi.json is not what openapi.yaml says: run go generate ./internal/api")
	}
}

// TestOpenAPIValid checks the description by the rules of OpenAPI 3.1, as far as it uses
// them; what it does not use yet is refused, so that the test learns of it.
func TestOpenAPIValid(t *testing.T) {
	d := describedAPI(t)
	v := &specCheck{t: t, d: d}
	v.keys("document", d.root, "openapi", "info", "servers", "security", "tags", "paths", "components")
	if version, _ := d.root["openapi"].(string); !strings.HasPrefix(version, "3.1.") {
		t.Errorf("openapi: %v", d.root["openapi"])
	}
	info, _ := d.root["info"].(map[string]any)
	v.keys("info", info, "title", "version", "summary", "description", "license")
	if info["title"] == nil || info["version"] == nil {
		t.Error("info: title and version are required")
	}
	v.refs("", d.root)
	v.operations()
	components := d.root["components"].(map[string]any)
	v.keys("components", components, "securitySchemes", "parameters", "requestBodies", "responses", "schemas")
	for name, s := range components["schemas"].(map[string]any) {
		v.schema("schemas."+name, s)
		if !v.used["#/components/schemas/"+name] {
			t.Errorf("nothing refers to the schema %s", name)
		}
	}
}

// specCheck checks parts of a description.
type specCheck struct {
	t    *testing.T
	d    *apiDoc
	used map[string]bool // references
}

// keys refuses members that are not known, but for extensions.
func (v *specCheck) keys(at string, m map[string]any, known ...string) {
	v.t.Helper()
	for k := range m {
		if !slices.Contains(known, k) && !strings.HasPrefix(k, "x-") {
			v.t.Errorf("%s: %q is not known", at, k)
		}
	}
}

// refs checks that references lead somewhere.
func (v *specCheck) refs(at string, x any) {
	switch x := x.(type) {
	case []any:
		for i, e := range x {
			v.refs(fmt.Sprintf("%s[%d]", at, i), e)
		}
	case map[string]any:
		if ref, ok := x["$ref"].(string); ok {
			if v.used == nil {
				v.used = map[string]bool{}
			}
			v.used[ref] = true
			if !strings.HasPrefix(ref, "#/components/") || v.d.resolveRef(x) == nil {
				v.t.Errorf("%s: %s leads nowhere", at, ref)
			}
		}
		for k, e := range x {
			v.refs(at+"."+k, e)
		}
	}
}

var templated = regexp.MustCompile(`\{([a-z]+)\}`)

func (v *specCheck) operations() {
	ids := map[string]bool{}
	tags := map[string]bool{}
	for _, tag := range v.d.root["tags"].([]any) {
		tags[tag.(map[string]any)["name"].(string)] = true
	}
	for path, item := range v.d.root["paths"].(map[string]any) {
		v.keys(path, item.(map[string]any), append([]string{"parameters"}, apiMethods...)...)
	}
	for _, op := range v.d.ops {
		raw := v.d.root["paths"].(map[string]any)[op.path].(map[string]any)[strings.ToLower(op.method)].(map[string]any)
		v.keys(op.id, raw, "operationId", "summary", "description", "tags", "security", "parameters", "requestBody", "responses")
		if op.id == "" || ids[op.id] {
			v.t.Errorf("%s %s: the operationId %q is missing or not the only one", op.method, op.path, op.id)
		}
		ids[op.id] = true
		if !tags[op.tag] || raw["summary"] == nil {
			v.t.Errorf("%s: the tag %q is not listed, or there is no summary", op.id, op.tag)
		}
		v.parameters(op)
		v.content(op.id+" body", op.body)
		if len(op.responses) == 0 {
			v.t.Errorf("%s: no responses", op.id)
		}
		for status, r := range op.responses {
			m, _ := r.(map[string]any)
			at := op.id + " " + status
			v.keys(at, m, "description", "content", "headers")
			if m["description"] == nil || status != "default" && !regexp.MustCompile(`^[2-5][0-9][0-9]$`).MatchString(status) {
				v.t.Errorf("%s: no description, or no status", at)
			}
			content, _ := m["content"].(map[string]any)
			v.content(at, content)
		}
	}
}

func (v *specCheck) parameters(op *apiOp) {
	seen := map[string]bool{}
	for _, p := range op.params {
		at := op.id + " parameter " + p.name
		if seen[p.in+p.name] {
			v.t.Errorf("%s stands twice", at)
		}
		seen[p.in+p.name] = true
		if p.name == "" || !slices.Contains([]string{"path", "query", "header"}, p.in) || p.schema == nil {
			v.t.Errorf("%s: in %q, schema %v", at, p.in, p.schema)
		}
		if p.in == "path" && (!p.required || !strings.Contains(op.path, "{"+p.name+"}")) {
			v.t.Errorf("%s is in the path and not required, or not in %s", at, op.path)
		}
		v.schema(at, p.schema)
	}
	for _, m := range templated.FindAllStringSubmatch(op.path, -1) {
		if !seen["path"+m[1]] {
			v.t.Errorf("%s: {%s} is not described", op.id, m[1])
		}
	}
}

func (v *specCheck) content(at string, content map[string]any) {
	for media, m := range content {
		if _, _, err := mime.ParseMediaType(media); err != nil {
			v.t.Errorf("%s: media type %q: %v", at, media, err)
		}
		o, _ := m.(map[string]any)
		v.keys(at, o, "schema")
		if o["schema"] != nil {
			v.schema(at, o["schema"])
		}
	}
}

var schemaKeys = map[string][]string{
	"object":  {"properties", "required", "additionalProperties", "maxProperties"},
	"array":   {"items", "minItems", "maxItems"},
	"string":  {"minLength", "maxLength", "pattern", "format", "enum"},
	"integer": {"minimum", "maximum", "format"},
	"number":  {"minimum", "maximum", "format"},
	"boolean": {},
}

func (v *specCheck) schema(at string, x any) {
	m, ok := x.(map[string]any)
	if !ok {
		v.t.Errorf("%s: %T is no schema", at, x)
		return
	}
	if m["$ref"] != nil {
		v.keys(at, m, "$ref", "description")
		return
	}
	kind, _ := m["type"].(string)
	known, ok := schemaKeys[kind]
	if !ok {
		v.t.Errorf("%s: the type %q", at, m["type"])
		return
	}
	v.keys(at, m, append([]string{"type", "description"}, known...)...)
	if p, ok := m["pattern"].(string); ok {
		if _, err := regexp.Compile(p); err != nil {
			v.t.Errorf("%s: %v", at, err)
		}
	}
	props, _ := m["properties"].(map[string]any)
	for name, p := range props {
		v.schema(at+"."+name, p)
	}
	required, _ := m["required"].([]any)
	for _, name := range required {
		if props[name.(string)] == nil {
			v.t.Errorf("%s: %v is required and no property", at, name)
		}
	}
	if kind == "array" {
		v.schema(at+"[]", m["items"])
	}
}
