package config

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/invopop/jsonschema"
)

const introduction = `## Configuration of the eBPF sidecar: every key with its default, commented out.
## To change one, remove the "# " before it and before the keys that it is below.
##
## ${env:NAME} is the value of a variable, ${env:NAME:-default} has a default, $$ is a $.
## A variable wins over the file: SIDECAR_EXPORT_INTERVAL over export.interval, and so on
## for every key with a single value but those below probes; the OTEL_* variables have
## their usual meaning. K8S_CLUSTER_NAME and K8S_NODE_NAME (or NODE_NAME), where they are
## set, become attributes of the resource.

`

// Default returns a configuration file that has every key with its default and what it is for, wholly commented out.
func Default(catalogue Catalogue) []byte {
	var b bytes.Buffer
	b.WriteString(introduction)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, root := defaults(catalogue)
	writeDefaults(w, "# ", root, catalogue.descriptions())
	_ = w.Flush() // a bytes.Buffer does not fail
	return b.Bytes()
}

// writeDefaults writes the keys below k, with their explanations in a column beside.
func writeDefaults(w io.Writer, indent string, k key, descriptions map[string]string) {
	for _, child := range k.fileKeys() {
		value := ""
		switch {
		case child.open():
			value = " {}"
		case !child.section() && !child.list():
			value = " " + cmp.Or(child.initial(), `""`)
		}
		fmt.Fprintf(w, "%s%s:%s\t# %s\n", indent, child.name, value, child.doc(descriptions))
		switch {
		case child.section():
			writeDefaults(w, indent+"  ", child, descriptions)
		case child.list():
			for item := range strings.SplitSeq(child.initial(), ",") {
				fmt.Fprintf(w, "%s  - %s\n", indent, item)
			}
		}
	}
}

// Schema returns the JSON Schema of the file.
func Schema(catalogue Catalogue) ([]byte, error) {
	_, root := defaults(catalogue)
	s := schema(root, catalogue.descriptions())
	s.Version = jsonschema.Version
	s.Title = "Configuration of the eBPF sidecar"
	s.Definitions = jsonschema.Definitions{"variable": {
		Type:        "string",
		Pattern:     `\$\{env:`,
		Description: "an environment variable: ${env:NAME} or ${env:NAME:-default}",
	}}
	return json.MarshalIndent(s, "", "  ")
}

// schema returns the schema of k and of what is below it.
func schema(k key, descriptions map[string]string) *jsonschema.Schema {
	s := &jsonschema.Schema{Description: k.doc(descriptions)}
	switch {
	case k.open():
		s.Type = "object"
		s.AdditionalProperties = &jsonschema.Schema{Type: "string"}
	case k.section():
		s.Type = "object"
		s.AdditionalProperties = jsonschema.FalseSchema
		s.Properties = jsonschema.NewProperties()
		for _, child := range k.fileKeys() {
			s.Properties.Set(child.name, schema(child, descriptions))
		}
	case k.list():
		s.Type = "array"
		s.UniqueItems = true
		s.Items = &jsonschema.Schema{AnyOf: k.forms()}
		s.Default = strings.Split(k.initial(), ",")
	default:
		s.AnyOf = k.forms()
		switch value := k.value.Interface().(type) {
		case bool, int:
			s.Default = value
		default:
			s.Default = k.initial()
		}
	}
	return s
}

// forms returns the schemas of what a single value can be.
func (k key) forms() []*jsonschema.Schema {
	forms := []*jsonschema.Schema{{Ref: "#/$defs/variable"}}
	switch k.value.Interface().(type) {
	case bool:
		return append(forms, &jsonschema.Schema{Type: "boolean"})
	case int:
		return append(forms, &jsonschema.Schema{Type: "integer", Minimum: "1"})
	case time.Duration:
		return append(forms, &jsonschema.Schema{Type: "string", Pattern: `^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$`})
	case ByteSize:
		return append(forms, &jsonschema.Schema{Type: "integer", Minimum: "1"},
			&jsonschema.Schema{Type: "string", Pattern: `^[0-9]+ ?([KMGT]iB|[kMGT]?B)?$`})
	}
	text := &jsonschema.Schema{Type: "string"}
	for _, value := range k.enum() {
		text.Enum = append(text.Enum, value)
	}
	return append(forms, text)
}

// Entry is one key as people are told of it.
type Entry struct {
	Path      string   // in the file; empty if only variables set it
	Type      string   // in words
	Values    []string // that there are, nil if it is free
	Default   []string // in the file's notation: one, several of a list, or none
	Variables []string // that set it, the one that wins first
	Doc       string
}

// Reference lists every key that has a value, in the order of the file.
func Reference(catalogue Catalogue) []Entry {
	descriptions := catalogue.descriptions()
	var entries []Entry
	var add func(k key, listed bool)
	add = func(k key, listed bool) {
		if k.section() {
			for _, child := range k.children() {
				if child.path != "" || len(child.variables()) > 0 {
					add(child, listed || k.value.Kind() == reflect.Map)
				}
			}
			return
		}
		e := Entry{Path: k.path, Type: k.kind(), Values: k.enum(), Doc: k.doc(descriptions)}
		if initial := k.initial(); initial != "" {
			e.Default = strings.Split(initial, ",")
		}
		if !listed { // below probes there are none
			e.Variables = k.variables()
		}
		entries = append(entries, e)
	}
	_, root := defaults(catalogue)
	add(root, false)
	return entries
}

// kind says in words what can be written for the key.
func (k key) kind() string {
	switch k.value.Interface().(type) {
	case bool:
		return "true or false"
	case int:
		return "whole number, from 1"
	case time.Duration:
		return "duration"
	case ByteSize:
		return "size"
	case []string:
		return "list of"
	case map[string]string:
		return "names and values"
	}
	if k.enum() != nil {
		return "one of"
	}
	return "text"
}

// doc returns what people are told about the key.
func (k key) doc(descriptions map[string]string) string {
	return cmp.Or(k.tag.Get("doc"), descriptions[k.path])
}

// initial returns the default in the file's notation.
func (k key) initial() string {
	if text, ok := k.tag.Lookup("default"); ok || k.value.Kind() != reflect.Bool {
		return text
	}
	return fmt.Sprint(k.value)
}
