package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/ebpf-sidecar/sidecar/config"
	"github.com/ebpf-sidecar/sidecar/internal/catalogue"
	"github.com/ebpf-sidecar/sidecar/probes"
)

func configCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "config",
		Short: "Validate a configuration, or print the default one or its schema",
		Args:  cobra.NoArgs,
	}
	command.AddCommand(&cobra.Command{
		Use:   "validate [FILE]",
		Short: "Check a configuration file and the environment, and print every error",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			path := ""
			if len(args) == 1 {
				path = args[0]
			}
			if _, err := loadConfig(path); err != nil {
				return err
			}
			_, err := fmt.Fprintln(command.OutOrStdout(), "The configuration is valid.")
			return err
		},
	}, &cobra.Command{
		Use:   "default",
		Short: "Print a configuration file with every key, its default and its meaning, commented out",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			_, err := command.OutOrStdout().Write(config.Default(catalogue.Of(probes.All())))
			return err
		},
	}, &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the configuration file, for editors",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			schema, err := config.Schema(catalogue.Of(probes.All()))
			if err != nil {
				return err
			}
			_, err = command.OutOrStdout().Write(schema)
			return err
		},
	})
	return command
}

// loadConfig reads the configuration from a file, if a path is given, and the environment.
func loadConfig(path string) (*config.Config, error) {
	c, err := config.Load(path, os.LookupEnv, catalogue.Of(probes.All()))
	if err != nil {
		return nil, usageError{fmt.Errorf("the configuration is not valid:\n%w", err)}
	}
	return c, nil
}
