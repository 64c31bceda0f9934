// Command gendocs writes the reference pages of docs/, made from what the code says of itself: the probes' specs, the
// configuration's struct tags. The argument is the directory.
package main

import (
	"bytes"
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"github.com/ebpf-sidecar/sidecar/config"
	"github.com/ebpf-sidecar/sidecar/internal/catalogue"
	"github.com/ebpf-sidecar/sidecar/probes"
	"github.com/ebpf-sidecar/sidecar/telemetry"
)

//go:embed *.md
var pages embed.FS

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gendocs DIRECTORY")
		os.Exit(2)
	}
	if err := generate(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// generate fills the pages in and writes them to a directory.
func generate(directory string) error {
	templates, err := template.New("").
		Funcs(template.FuncMap{"kind": kind, "codes": codes, "type": typeOf, "cell": cell}).
		ParseFS(pages, "*.md")
	if err != nil {
		return err
	}
	data := map[string]any{
		"Probes":   probes.All(),
		"Self":     telemetry.SelfMetrics(),
		"Sections": sections(config.Reference(catalogue.Of(probes.All()))),
	}
	for _, page := range templates.Templates() {
		var b bytes.Buffer
		if err := page.Execute(&b, data); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(directory, page.Name()), b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func kind(i *probes.Instrument) string {
	if i.Kind == probes.Counter {
		return "counter"
	}
	return fmt.Sprintf("exponential histogram, scale %d, 2^%d to 2^%d s", i.Range.Scale, i.Range.Min, i.Range.Max)
}

// section is a group of configuration keys, with a heading in words.
type section struct {
	Title   string
	Entries []config.Entry
}

// sections groups the keys: those of the top level, of each mapping below it, and those that the file does not have.
func sections(entries []config.Entry) []section {
	groups := []section{{Title: "Top level"}, {Title: "probes"}, {Title: "export"}, {Title: "log"}, {Title: "Variables only"}}
	for _, e := range entries {
		name, _, nested := strings.Cut(e.Path, ".")
		switch {
		case e.Path == "":
			name = "Variables only"
		case !nested:
			name = "Top level"
		}
		i := slices.IndexFunc(groups, func(s section) bool { return s.Title == name })
		if i < 0 {
			groups = append(groups, section{Title: name})
			i = len(groups) - 1
		}
		groups[i].Entries = append(groups[i].Entries, e)
	}
	return groups
}

// typeOf says what can be written for a key.
func typeOf(e config.Entry) string { return strings.TrimSpace(e.Type + " " + codes(e.Values)) }

func codes(keys []string) string { return quoted(keys, ", ") }

// cell lists names one below the other, in a table.
func cell(keys []string) string { return quoted(keys, "<br>") }

func quoted(keys []string, separator string) string {
	var quoted []string
	for _, key := range keys {
		quoted = append(quoted, "`"+key+"`")
	}
	return strings.Join(quoted, separator)
}
