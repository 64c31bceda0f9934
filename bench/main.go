// Command bench measures what the sidecar costs and writes it down (docs/benchmarks.md). It needs root, and takes minutes.
//
// What is measured is a table: sections of rows, each a name and a function. Parts that need a process of their own are
// this program again.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"
)

// section is one table of the report.
type section struct {
	title   string
	about   string   // what was done, in Markdown
	columns []string // the first is that of the rows' names
	rows    []row
}

// row is one line of a table.
type row struct {
	name    string
	measure func() ([]string, error) // a cell a column, after the name
}

func sections() []section {
	return []section{
		eventCosts(),
		inApplications(),
		exports(),
		exportMemory(),
		start(),
		startParts(),
		idle(),
		binarySize(),
	}
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == partArgument {
		exit(runPart(os.Args[2], os.Args[3:]))
	}
	output := flag.String("o", "", "write the report to `FILE` instead of standard output")
	only := flag.String("only", "", "measure only the sections whose title matches `REGEXP`")
	flag.Parse()
	exit(run(*output, *only))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(output, only string) error {
	if os.Geteuid() != 0 {
		return errors.New("loading BPF programs takes root: type sudo make bench")
	}
	if output != "" && only != "" {
		return errors.New("a report of some sections is not for a file: leave out -o or -only")
	}
	if _, err := os.Stat(binary); err != nil {
		return fmt.Errorf("the sidecar is not built: %w: type make build, in the repository's directory", err)
	}
	wanted, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}

	var report strings.Builder
	begin := time.Now()
	if err := writeHeader(&report); err != nil {
		return err
	}
	for _, s := range sections() {
		if !wanted.MatchString(s.title) {
			continue
		}
		if err := s.write(&report); err != nil {
			return fmt.Errorf("%s: %w", s.title, err)
		}
	}
	fmt.Fprintf(&report, "\nThe load average was %s at the end, after %s.\n", loadAverage(), time.Since(begin).Round(time.Second))
	if output == "" {
		_, err := io.WriteString(os.Stdout, report.String())
		return err
	}
	return os.WriteFile(output, []byte(report.String()), 0o644)
}

// write measures the section's rows and writes them as a table.
func (s *section) write(w io.Writer) error {
	fmt.Fprintf(w, "\n## %s\n\n%s\n\n", s.title, s.about)
	line := func(cells []string) { fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")) }
	line(s.columns)
	fmt.Fprintf(w, "|---|%s\n", strings.Repeat("---:|", len(s.columns)-1))
	for _, r := range s.rows {
		fmt.Fprintf(os.Stderr, "%s: %s\n", s.title, r.name)
		cells, err := r.measure()
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		line(append([]string{r.name}, cells...))
	}
	return nil
}
