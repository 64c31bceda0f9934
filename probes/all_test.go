package probes

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ebpf-sidecar/sidecar/series"
)

// The catalogue as the world knows it. What is here has users: a change breaks their dashboards.
const catalogue = `
process      counter    system.process.created                {process}
process      counter    linux.thread.created                  {thread}
process      counter    linux.process.executions              {execution}       process.executable.name
process      counter    linux.process.exits                   {process}         process.exit.code linux.signal.name
process      histogram  linux.process.lifetime                s
scheduler    counter    linux.scheduler.context_switches      {context_switch}  process.context_switch.type
scheduler    histogram  linux.scheduler.run_queue.duration    s
`

func TestCatalogue(t *testing.T) {
	var got strings.Builder
	names := make(map[string]bool)
	valid := regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$`)
	unit := regexp.MustCompile(`^(s|By|\{[a-z_]+\})$`) // UCUM
	for _, spec := range All() {
		if spec.Name == "" || names[spec.Name] || spec.Description == "" || spec.Needs == "" || spec.Version == "" {
			t.Errorf("probe %q: not all is said, or it is said twice", spec.Name)
		}
		names[spec.Name] = true
		for i := range spec.Instruments() {
			kind := "counter"
			if i.Kind == Histogram {
				kind = "histogram"
				if i.Unit != "s" || len(i.Values) != 1 {
					t.Errorf("%s: a histogram of %q with %d values", i.Name, i.Unit, len(i.Values))
				}
			}
			fmt.Fprintln(&got, spec.Name, kind, i.Name, i.Unit, strings.Join(i.Attributes, " "))
			if names[i.Name] || !valid.MatchString(i.Name) || strings.HasSuffix(i.Name, "_total") || !unit.MatchString(i.Unit) {
				t.Errorf("%s in %s: a bad name or unit, or there are two", i.Name, i.Unit)
			}
			names[i.Name] = true
			if i.Description == "" || strings.HasSuffix(i.Description, ".") {
				t.Errorf("%s: description %q", i.Name, i.Description)
			}
			for _, value := range i.Values {
				for _, a := range value.Attributes {
					if !slices.Contains(i.Attributes, a.Key) {
						t.Errorf("%s: attribute %s is not listed", i.Name, a.Key)
					}
				}
			}
		}
	}
	columns := regexp.MustCompile(` +`)
	want := columns.ReplaceAllString(strings.TrimSpace(catalogue), " ")
	if got := columns.ReplaceAllString(strings.ReplaceAll(strings.TrimSpace(got.String()), " \n", "\n"), " "); got != want {
		t.Errorf("the catalogue is\n%s\nwant\n%s", got, want)
	}
}

// What the specs say of the cells is what the objects hold, to the byte.
func TestCells(t *testing.T) {
	for _, spec := range All() {
		collection, err := spec.Load()
		if err != nil {
			t.Fatal(err)
		}
		if missed := collection.Variables["missed"]; missed == nil || missed.Size() != uint32(8*len(missReasons)) {
			t.Errorf("%s does not count %d reasons to miss an event", spec.Name, len(missReasons))
		}
		for _, table := range spec.Tables {
			layout, err := series.LayoutOf(collection, table.Name)
			if err != nil {
				t.Errorf("%s: %v", spec.Name, err)
				continue
			}
			if collection.Variables[table.Name+"_enabled"] == nil && len(spec.Tables) > 1 {
				t.Errorf("table %s has no switch", table.Name)
			}
			uses := make([]string, layout.CellSize/8) // by word
			for _, instrument := range table.Instruments {
				for _, value := range instrument.Values {
					words := 1
					if instrument.Kind == Histogram {
						words = instrument.Range.words()
					}
					for word := int(value.Offset) / 8; word < int(value.Offset)/8+words; word++ {
						if word >= len(uses) || uses[word] != "" || value.Offset%8 != 0 {
							t.Fatalf("%s: word %d of %d is not its own", instrument.Name, word, len(uses))
						}
						uses[word] = instrument.Name
					}
				}
			}
			if slices.Contains(uses, "") {
				t.Errorf("table %s has words that nobody reads: %q", table.Name, uses)
			}
		}
	}
}
