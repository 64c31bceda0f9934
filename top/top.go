// Package top draws readings in a terminal, as they come. It knows nothing of where they come from.
package top

import (
	"context"
	"errors"
	"io"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/ebpf-sidecar/sidecar/readings"
)

// Options says what to draw, and where.
type Options struct {
	// Frames are drawn as they come, until the channel is closed. Who sends them is never kept waiting by a slow terminal
	// for longer than one frame takes.
	Frames <-chan *readings.Frame
	// Messages are what went wrong so far, in lines. It is called whenever the screen is drawn.
	Messages func() []string
	// Interval is how far apart the frames are, about; it is shown.
	Interval time.Duration

	Input       io.Reader
	Output      io.Writer
	Environment []string // TERM, NO_COLOR and the like
}

// Run draws until the user quits or the context ends.
func Run(ctx context.Context, o Options) error {
	program := tea.NewProgram(newModel(o),
		tea.WithContext(ctx),
		tea.WithInput(o.Input), tea.WithOutput(o.Output), tea.WithEnvironment(o.Environment),
		tea.WithoutSignalHandler(), // the context ends with them
	)
	_, err := program.Run()
	if errors.Is(err, tea.ErrProgramKilled) && ctx.Err() != nil {
		return nil
	}
	return err
}
