package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ebpf-sidecar/sidecar/config"
	"github.com/ebpf-sidecar/sidecar/internal/catalogue"
	"github.com/ebpf-sidecar/sidecar/probes"
	"github.com/ebpf-sidecar/sidecar/service"
)

func installCommand() *cobra.Command {
	var options service.Options
	var dryRun, packaged bool
	command := &cobra.Command{
		Use:   "install",
		Short: "Install the sidecar as a service of systemd (root)",
		Long: "Install the sidecar as a service of systemd that starts with the host: its binary where only root can change\n" +
			"it, a user with the two capabilities it needs, the default configuration if there is none, and a unit. First,\n" +
			"sidecar check is run as the service will run. What fails leaves nothing behind.",
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			var err error
			if options.Binary, err = os.Executable(); err != nil {
				return err
			}
			options.DefaultConfig = config.Default(catalogue.Of(probes.All()))
			options.MemoryMax = memoryMax
			options.Log = command.OutOrStdout()
			if dryRun || packaged {
				render := service.DryRun
				if packaged {
					render = service.PackagedUnit
				}
				unit, err := render(options)
				if err != nil {
					return err
				}
				_, err = fmt.Fprint(command.OutOrStdout(), unit)
				return err
			}
			if err := service.Install(options); err != nil {
				return err
			}
			warnOfEnvironment(command, options.Instance)
			return nil
		},
	}
	flags := command.Flags()
	serviceFlag(command, &options.Instance)
	flags.StringVar(&options.User, "user", "", "`USER` that the service runs as (default: "+service.DefaultUser+", made if need be)")
	flags.StringVar(&options.WorkingDirectory, "working-directory", "", "`FOLDER` that the service runs in (default: /var/lib/NAME)")
	flags.StringVar(&options.Config, "config", "", "configuration `FILE`, written if there is none (default: /etc/NAME/config.yaml)")
	flags.BoolVar(&options.Now, "now", false, "start it too")
	flags.BoolVar(&dryRun, "dry-run", false, "print the unit file and do nothing")
	flags.BoolVar(&packaged, "packaged", false, "print the unit file of the .deb and .rpm packages and do nothing")
	_ = flags.MarkHidden("packaged")
	flags.BoolVar(&options.Force, "force", false, "install over an installation that is there")
	return command
}

func uninstallCommand() *cobra.Command {
	var instance service.Instance
	var purge bool
	command := &cobra.Command{
		Use:   "uninstall",
		Short: "Stop the service and remove what install made (root)",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := service.Uninstall(instance, purge); err != nil {
				return err
			}
			fmt.Fprintf(command.OutOrStdout(), "Uninstalled %s.\n", instance.Unit())
			if _, err := os.Stat(instance.Configuration()); err == nil {
				fmt.Fprintf(command.OutOrStdout(), "%s stays: uninstall --purge removes it too.\n", instance.Configuration())
			}
			return nil
		},
	}
	serviceFlag(command, &instance)
	command.Flags().BoolVar(&purge, "purge", false, "remove /etc/NAME and /etc/default/NAME too")
	return command
}

// controlCommand is a verb of the service manager's.
func controlCommand(verb, short string, control func(service.Instance) error) *cobra.Command {
	var instance service.Instance
	command := &cobra.Command{
		Use:   verb,
		Short: short,
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return control(instance) },
	}
	serviceFlag(command, &instance)
	return command
}

// serviceFlag adds --service to a command.
func serviceFlag(command *cobra.Command, instance *service.Instance) {
	*instance = service.DefaultName
	command.Flags().Var(instance, "service", "`NAME` of the instance")
}

// memoryMax is what the kernel's memory for a configuration and the process itself may take, in bytes. The first is there twice
// while a reload changes one set of probes for another.
func memoryMax(path string) (uint64, error) {
	c, err := loadConfig(path)
	if err != nil {
		return 0, err
	}
	return 2*uint64(c.MemoryLimit) + 128<<20, nil
}

// warnOfEnvironment tells of variables that configure this process and will not configure the service.
func warnOfEnvironment(command *cobra.Command, instance service.Instance) {
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "OTEL_") || strings.HasPrefix(name, "SIDECAR_") {
			fmt.Fprintf(command.ErrOrStderr(), "sidecar: %s is set here; the service has only what is in %s\n", name, instance.Environment())
		}
	}
}
