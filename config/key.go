package config

import (
	"reflect"
	"slices"
	"strings"
)

// key is a key of the file, or a field that only a variable sets.
type key struct {
	name  string // last part of the path
	path  string // such as export.tls.ca_file; empty if the file has no such key
	tag   reflect.StructTag
	value reflect.Value // addressable
}

// defaults returns the configuration that nobody touched, and its root key.
func defaults(catalogue Catalogue) (*Config, key) {
	config := &Config{Probes: catalogue.probes()}
	root := key{value: reflect.ValueOf(config).Elem()}
	for _, k := range root.leaves() {
		if text, ok := k.tag.Lookup("default"); ok {
			if err := k.set(text); err != nil {
				panic("config: default of " + k.name + ": " + err.Error())
			}
		}
	}
	return config, root
}

// open tells whether the key is a mapping whose keys are for the user to choose.
func (k key) open() bool { return k.value.Type() == reflect.TypeFor[map[string]string]() }

// section tells whether the key is a mapping of other keys.
func (k key) section() bool {
	kind := k.value.Kind()
	return kind == reflect.Struct || kind == reflect.Map && !k.open()
}

// list tells whether the key is a list.
func (k key) list() bool { return k.value.Kind() == reflect.Slice }

// children returns the keys below k: a struct's in the order of its fields, a map's by name. The values of a map are
// copies.
func (k key) children() []key {
	var children []key
	switch k.value.Kind() {
	case reflect.Struct:
		for field, value := range k.value.Fields() {
			child := key{name: field.Name, tag: field.Tag, value: value}
			if name, ok := field.Tag.Lookup("yaml"); ok {
				child.name, child.path = name, join(k.path, name)
			}
			children = append(children, child)
		}
	case reflect.Map:
		names := k.value.MapKeys()
		slices.SortFunc(names, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, name := range names {
			child := k.entry(name.String())
			child.value.Set(k.value.MapIndex(name))
			children = append(children, child)
		}
	}
	return children
}

// fileKeys returns the children that are keys of the file.
func (k key) fileKeys() []key {
	return slices.DeleteFunc(k.children(), func(child key) bool { return child.path == "" })
}

// entry returns an empty entry for a map, to be put there with put.
func (k key) entry(name string) key {
	return key{name: name, path: join(k.path, name), value: reflect.New(k.value.Type().Elem()).Elem()}
}

// put stores a child in the map that it is a copy from; the children of a struct are in place.
func (k key) put(child key) {
	if k.value.Kind() != reflect.Map {
		return
	}
	if k.value.IsNil() {
		k.value.Set(reflect.MakeMap(k.value.Type()))
	}
	k.value.SetMapIndex(reflect.ValueOf(child.name), child.value)
}

// leaves returns the keys below k that are not structs.
func (k key) leaves() []key {
	if k.value.Kind() != reflect.Struct {
		return []key{k}
	}
	var leaves []key
	for _, child := range k.children() {
		leaves = append(leaves, child.leaves()...)
	}
	return leaves
}

// enum returns the values that the key can have, nil if it is free.
func (k key) enum() []string {
	values, ok := k.tag.Lookup("enum")
	if !ok {
		return nil
	}
	return strings.Split(values, "|")
}

// variables returns the environment variables that set the key, the one that wins first.
func (k key) variables() []string {
	var names []string
	if k.path != "" && !k.section() && !k.open() && !k.list() {
		names = append(names, "SIDECAR_"+strings.ToUpper(strings.ReplaceAll(k.path, ".", "_")))
	}
	if name, ok := k.tag.Lookup("env"); ok {
		if rest, ok := strings.CutPrefix(name, "OTEL_EXPORTER_OTLP_"); ok && !strings.HasPrefix(rest, "METRICS_") {
			names = append(names, "OTEL_EXPORTER_OTLP_METRICS_"+rest)
		}
		names = append(names, name)
	}
	return names
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
