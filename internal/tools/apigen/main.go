// Command apigen makes of the description of the HTTP API, which is written by hand, what
// is generated from it: the JSON that servers show, and the Go types of its schemas.
//
//	apigen openapi.yaml openapi.json types.gen.go
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/oapi-codegen/oapi-codegen/v2/pkg/codegen"
	"go.yaml.in/yaml/v3"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: apigen openapi.yaml openapi.json types.gen.go")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "apigen:", err)
		os.Exit(1)
	}
}

func run(from, jsonFile, goFile string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var doc map[string]any
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return err
	}
	whole, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(jsonFile, append(whole, '\n'), 0o644); err != nil {
		return err
	}
	// Parameters are read from requests by hand, so only the schemas become types.
	doc["paths"] = map[string]any{}
	doc["components"] = map[string]any{"schemas": doc["components"].(map[string]any)["schemas"]}
	schemas, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	spec, err := openapi3.NewLoader().LoadFromData(schemas)
	if err != nil {
		return err
	}
	code, err := codegen.Generate(spec, codegen.Configuration{
		PackageName: "api",
		Generate:    codegen.GenerateOptions{Models: true},
		OutputOptions: codegen.OutputOptions{
			SkipPrune: true, PreferSkipOptionalPointer: true, PreferSkipOptionalPointerWithOmitzero: true,
			NameNormalizer: string(codegen.NameNormalizerFunctionToCamelCaseWithInitialisms),
		},
	}.UpdateDefaults())
	if err != nil {
		return err
	}
	return os.WriteFile(goFile, []byte(code), 0o644)
}
