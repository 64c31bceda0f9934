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
		Funcs(template.FuncMap{"kind": kind, "codes": codes, "type": typeOf, "cell": cell, "works": works, "metrics": metrics}).
		ParseFS(pages, "*.md")
	if err != nil {
		return err
	}
	data := map[string]any{
		"Probes":   probes.All(),
		"Kernels":  kernels,
		"Self":     telemetry.SelfMetrics(),
		"Sections": sections(config.Reference(catalogue.Of(probes.All()))),
	}
	for _, page := range templates.Templates() {
		var b bytes.Buffer
		if err := page.Execute(&b, data); err != nil {
			return err
		}
		write := os.WriteFile
		path := filepath.Join(directory, page.Name())
		if page.Name() == readme {
			write, path = replacePart, filepath.Join(directory, "..", page.Name())
		}
		if err := write(path, b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// readme is the page of which only a part is made, that between two marks.
const (
	readme    = "README.md"
	beginMark = "<!-- Made by make generate, up to the next mark. -->\n"
	endMark   = "<!-- End of what is made. -->\n"
)

// replacePart replaces what is between the marks of a file.
func replacePart(path string, content []byte, mode os.FileMode) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, begun := bytes.Cut(page, []byte(beginMark))
	_, after, ended := bytes.Cut(rest, []byte(endMark))
	if !begun || !ended {
		return fmt.Errorf("%s: no part between the lines %q and %q", path, beginMark, endMark)
	}
	return os.WriteFile(path, slices.Concat(before, []byte(beginMark), content, []byte(endMark), after), mode)
}

func metrics(spec *probes.Spec) []*probes.Instrument { return slices.Collect(spec.Instruments()) }

// kernels are those of the matrix, e2e/vm.
var kernels = []string{"5.10", "6.1", "6.12", "7.2"}

// works says whether a probe works on a kernel.
func works(spec *probes.Spec, kernel string) (string, error) {
	var version [2]uint32
	if _, err := fmt.Sscanf(kernel, "%d.%d", &version[0], &version[1]); err != nil {
		return "", err
	}
	if slices.Compare(version[:], spec.Since[:]) < 0 {
		return fmt.Sprintf("unsupported: needs %d.%d", spec.Since[0], spec.Since[1]), nil
	}
	return "works", nil
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
