// Command gendocs prints docs/metrics.md, made from the probes' own descriptions.
package main

import (
	"fmt"
	"os"
	"strings"
	"text/template"

	"github.com/ebpf-sidecar/sidecar/probes"
	"github.com/ebpf-sidecar/sidecar/telemetry"
)

const page = `# Metrics

<!-- Made by make generate. Do not edit. -->

Every counter is monotonic and cumulative, every histogram exponential, in seconds. A series starts when its first event
happens. Each metric has a switch: ` + "`probes.<probe>.metrics.<metric>: false`" + `.

All series also carry the workload attributes that apply: ` + "`container.id`, `k8s.pod.uid`, `systemd.unit`" + `, and if asked
for ` + "`process.linux.cgroup`" + ` (see ` + "`attributes`" + ` in the configuration). The series with
` + "`otel.metric.overflow=true`" + ` takes the events of all series that found no room, and those
of a cgroup that was gone before it was known.
{{range .Probes}}
## {{.Name}}

{{.Description}}. {{if .Default}}On by default{{else}}Off by default{{end}}; needs {{.Needs}}.
Instrumentation scope ` + "`{{.Scope.Name}}` {{.Scope.Version}}" + `.

| metric | kind | unit | attributes | |
|---|---|---|---|---|
{{range .Instruments}}| ` + "`{{.Name}}`" + ` | {{kind .}} | {{.Unit}} | {{codes .Attributes}} | {{.Description}} |
{{end}}{{end}}
## The sidecar itself

| metric | kind | unit | attributes | |
|---|---|---|---|---|
{{range .Self}}| ` + "`{{.Name}}`" + ` | {{.Kind}} | {{.Unit}} | {{codes .Attributes}} | {{.Description}} |
{{end}}
The metrics of the Go runtime come besides, by the semantic conventions (` + "`go.*`" + `).
`

func main() {
	functions := template.FuncMap{"kind": kind, "codes": codes}
	err := template.Must(template.New("page").Funcs(functions).Parse(page)).Execute(os.Stdout, map[string]any{
		"Probes": probes.All(),
		"Self":   telemetry.SelfMetrics(),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func kind(i *probes.Instrument) string {
	if i.Kind == probes.Counter {
		return "counter"
	}
	return fmt.Sprintf("exponential histogram, scale %d, 2^%d to 2^%d s", i.Range.Scale, i.Range.Min, i.Range.Max)
}

func codes(keys []string) string {
	var quoted []string
	for _, key := range keys {
		quoted = append(quoted, "`"+key+"`")
	}
	return strings.Join(quoted, ", ")
}
