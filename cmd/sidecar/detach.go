package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/ebpf-sidecar/sidecar/handover"
)

func detachCommand() *cobra.Command {
	var path string
	command := &cobra.Command{
		Use:   "detach",
		Short: "Let go of what is pinned in the folder state.pin, so that it counts no more (root)",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			c, err := loadConfig(path)
			if err != nil {
				return err
			}
			if c.State.Pin == "" {
				return usageError{errors.New("nothing is pinned: the configuration has no state.pin (give it with --config or SIDECAR_STATE_PIN)")}
			}
			if _, err := os.Stat(c.State.Pin); errors.Is(err, fs.ErrNotExist) {
				_, err := fmt.Fprintf(command.OutOrStdout(), "Nothing is pinned in %s.\n", c.State.Pin)
				return err
			}
			pins, err := handover.NewPins(c.State.Pin)
			if err != nil {
				return err
			}
			return pins.Detach()
		},
	}
	configFlag(command, &path)
	return command
}
