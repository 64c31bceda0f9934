package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// partArgument, a part's name and its arguments make this program that part.
const partArgument = "part"

var parts = map[string]func(arguments []string) error{
	"switches":    switches,
	"connections": connections,
	"reads":       reads,
	"wakeups":     wakeups,
	"syscalls":    syscalls,
	"contention":  contention,
	"executions":  executions,
	"faults":      faults,
	"packets":     packets,
	"drops":       drops,
	"signals":     signals,
	"reclaims":    reclaims,
	"receive":     receive,
	"export":      export,
	"load":        loadProbes,
}

func runPart(name string, arguments []string) error {
	f := parts[name]
	if f == nil {
		return fmt.Errorf("no part %q", name)
	}
	if err := f(arguments); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// part is a part that runs. It ends at the end of its input; both directions are JSON.
type part struct {
	name    string
	command *exec.Cmd
	input   io.WriteCloser
	*json.Encoder
	*json.Decoder
}

func startPart(name string, arguments ...string) (*part, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &part{name: name, command: exec.Command(self, append([]string{partArgument, name}, arguments...)...)}
	p.command.Env = environment()
	p.command.Stderr = os.Stderr
	if p.input, err = p.command.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.Encoder, p.Decoder = json.NewEncoder(p.input), json.NewDecoder(out)
	if err := p.command.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// stop ends the part and returns its error.
func (p *part) stop() error {
	p.input.Close()
	if err := p.command.Wait(); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}

// once runs a part that has one answer.
func once[T any](name string, arguments ...string) (answer T, err error) {
	p, err := startPart(name, arguments...)
	if err != nil {
		return answer, err
	}
	err = p.Decode(&answer)
	return answer, errors.Join(err, p.stop())
}

// environment is this process's, without what would configure a sidecar.
func environment() []string {
	var kept []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "OTEL_") && !strings.HasPrefix(variable, "SIDECAR_") {
			kept = append(kept, variable)
		}
	}
	return kept
}

func answer(v any) error { return json.NewEncoder(os.Stdout).Encode(v) }

// numbers are the arguments of a part, all whole numbers.
func numbers(arguments []string, into ...*int) error {
	for i, n := range into {
		var err error
		if *n, err = strconv.Atoi(arguments[i]); err != nil {
			return err
		}
	}
	return nil
}
