package probes

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ebpf-sidecar/sidecar/series"
)

// TestCatalogue checks what the specs say. That no name changes by mistake, which would break dashboards, is seen in
// docs/metrics.md: it is generated, and compared with what is committed.
func TestCatalogue(t *testing.T) {
	names := make(map[string]bool)
	valid := regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$`)
	unit := regexp.MustCompile(`^(s|By|\{[a-z_]+\})$`) // UCUM
	for _, spec := range All() {
		if spec.Name == "" || names[spec.Name] || spec.Description == "" || spec.Since[0] == 0 || spec.Version == "" {
			t.Errorf("probe %q: not all is said, or it is said twice", spec.Name)
		}
		if !slices.Contains([]CostClass{Low, Medium, High}, spec.Cost.Class) || !strings.ContainsAny(spec.Cost.Text, "123456789") {
			t.Errorf("probe %s costs %q", spec.Name, spec.Cost)
		}
		if spec.Default && spec.Cost.Class == High {
			t.Errorf("probe %s is on by default and costs where nothing is counted", spec.Name)
		}
		names[spec.Name] = true
		for i := range spec.Instruments() {
			if i.Kind == Histogram && (i.Unit != "s" || len(i.Values) != 1) {
				t.Errorf("%s: a histogram of %q with %d values", i.Name, i.Unit, len(i.Values))
			}
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
}

// TestSince loads every probe with all that it can measure: from the kernel on that it says, it must attach. What an older one
// says names that kernel.
func TestSince(t *testing.T) {
	options := loadOnly("", ExecutableName, LinuxCgroup)
	options.Enabled = every
	options.Metric = func(string, string) bool { return true }
	set := load(t, options)
	for i, status := range set.Status() {
		spec := All()[i]
		want := Attached
		if !set.plan.kernel.Supports(spec) {
			want = Unsupported
		}
		t.Logf("%s: %s %v", spec.Name, status.State, status.Err)
		if status.State != want || want == Unsupported && !strings.Contains(status.Err.Error(), set.plan.kernel.Release) {
			t.Errorf("probe %s is %s, want %s: %v", spec.Name, status.State, want, status.Err)
		}
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
			for _, instrument := range table.Instruments {
				own := instrument.Switch != ""
				if collection.Variables[table.Name+"_enabled"] == nil && (own || len(spec.Tables) > 1) &&
					collection.Variables[instrument.Switch] == nil {
					t.Errorf("%s has no switch", instrument.Name)
				}
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
