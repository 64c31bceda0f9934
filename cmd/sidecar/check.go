package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ebpf-sidecar/sidecar/config"
	"github.com/ebpf-sidecar/sidecar/probes"
	"github.com/ebpf-sidecar/sidecar/telemetry"
)

// Outcomes of a check.
const (
	checkOK      = "ok"
	checkWarning = "warning" // it runs, and something will be missing
	checkFailed  = "failed"  // the enabled probes can't run
)

// finding is the answer of one check.
type finding struct {
	Check   string `json:"check"`
	Outcome string `json:"outcome"`
	Found   string `json:"found"`
	Why     string `json:"why,omitempty"` // why it matters
	Do      string `json:"do,omitempty"`  // what to type or to change
}

// connectTimeout bounds each step on the way to the endpoint.
const connectTimeout = 5 * time.Second

func checkCommand() *cobra.Command {
	var path string
	var output format
	command := &cobra.Command{
		Use:   "check",
		Short: "Check the kernel, the privileges, every enabled probe and the way to the endpoint",
		Long: "Check the kernel, the privileges, every enabled probe and the way to the endpoint. The exit code is 1 if\n" +
			"the enabled probes can't run; an endpoint that can't be reached is a warning, since it may come up later.",
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			c, err := loadConfig(path)
			if err != nil {
				return err
			}
			kernel, err := probes.RunningKernel()
			findings := checkHost(kernel, err)
			if err == nil {
				findings = append(findings, checkProbes(c, kernel)...)
			}
			if options := otlp(c); options != nil {
				findings = append(findings, checkEndpoint(command.Context(), options)...)
			}
			if err := write(command.OutOrStdout(), output, findings, func(w io.Writer) error {
				return printFindings(w, findings)
			}); err != nil {
				return err
			}
			for _, f := range findings {
				if f.Outcome == checkFailed {
					return errReported
				}
			}
			return nil
		},
	}
	configFlag(command, &path)
	outputFlag(command, &output)
	return command
}

func printFindings(w io.Writer, findings []finding) error {
	for _, f := range findings {
		if _, err := fmt.Fprintf(w, "%-8s %-16s %s\n", f.Outcome, f.Check, f.Found); err != nil {
			return err
		}
		for _, line := range []string{f.Why, f.Do} {
			if line != "" {
				fmt.Fprintf(w, "%25s %s\n", "", line)
			}
		}
	}
	return nil
}

// checkHost looks at what all probes need.
func checkHost(kernel *probes.Kernel, err error) []finding {
	return []finding{checkKernel(kernel, err), checkCapabilities(), checkLockdown(), checkCgroups()}
}

// checkKernel tells what probes.RunningKernel found.
func checkKernel(kernel *probes.Kernel, err error) finding {
	if err != nil {
		return finding{"kernel", checkFailed, err.Error(),
			"the programs read the kernel's structures where its BTF says they are",
			"boot a kernel with CONFIG_DEBUG_INFO_BTF=y: those of the distributions have it from 2020 on"}
	}
	return finding{Check: "kernel", Outcome: checkOK, Found: kernel.Release + ", with BTF"}
}

func checkCapabilities() finding {
	missing, err := missingCapabilities()
	if err != nil {
		return finding{"capabilities", checkWarning, err.Error(), "", ""}
	}
	if len(missing) > 0 {
		return finding{"capabilities", checkFailed, strings.Join(missing, " and ") + " missing",
			"the kernel lets only processes with both load tracing programs",
			"run as root (sudo sidecar check), or grant them: docker run --cap-add BPF --cap-add PERFMON"}
	}
	return finding{Check: "capabilities", Outcome: checkOK, Found: "CAP_BPF and CAP_PERFMON, or what includes them"}
}

func checkLockdown() finding {
	state, err := os.ReadFile("/sys/kernel/security/lockdown")
	switch {
	case errors.Is(err, os.ErrNotExist):
		return finding{Check: "lockdown", Outcome: checkOK, Found: "none, or securityfs is not mounted here"}
	case err != nil:
		return finding{Check: "lockdown", Outcome: checkWarning, Found: err.Error()}
	case bytes.Contains(state, []byte("[confidentiality]")):
		return finding{"lockdown", checkFailed, "confidentiality",
			"the kernel forbids programs to read the names of executables and cgroups",
			"boot with lockdown=integrity, which is what Secure Boot asks for"}
	}
	return finding{Check: "lockdown", Outcome: checkOK, Found: strings.TrimSpace(string(state))}
}

func checkCgroups() finding {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return finding{Check: "cgroups", Outcome: checkWarning, Found: err.Error()}
	}
	return mountedCgroups(mounts)
}

// mountedCgroups looks for cgroup file systems in /proc/PID/mountinfo.
func mountedCgroups(mounts []byte) finding {
	v1, v2 := false, false
	for lines := bufio.NewScanner(bytes.NewReader(mounts)); lines.Scan(); {
		if _, after, found := strings.Cut(lines.Text(), " - "); found {
			v1 = v1 || strings.HasPrefix(after, "cgroup ")
			v2 = v2 || strings.HasPrefix(after, "cgroup2 ")
		}
	}
	switch {
	case v2 && v1:
		return finding{Check: "cgroups", Outcome: checkOK, Found: "v1 and v2; workloads are told apart by the v2 hierarchy"}
	case v1:
		return finding{"cgroups", checkWarning, "v1 only",
			"counts are right, but workloads are told apart by the v2 hierarchy: their attributes will be missing",
			"boot with systemd.unified_cgroup_hierarchy=1"}
	case !v2:
		return finding{"cgroups", checkWarning, "no cgroup file system is mounted here",
			"if none is on the host either, workloads are not told apart: their attributes will be missing",
			"if so, mount one there: mount -t cgroup2 cgroup2 /sys/fs/cgroup"}
	}
	return finding{Check: "cgroups", Outcome: checkOK, Found: "v2"}
}

// checkProbes tries to load every probe; one that is not enabled is only a warning.
func checkProbes(c *config.Config, kernel *probes.Kernel) []finding {
	reports, _, err := tryProbes(c, kernel)
	if err != nil {
		return []finding{{Check: "probes", Outcome: checkFailed, Found: err.Error()}}
	}
	var findings []finding
	for _, r := range reports {
		f := finding{Check: "probe " + r.Name, Outcome: checkOK, Found: "loads and attaches"}
		if !r.Enabled {
			f.Found += " (off)"
		}
		if !r.Supported {
			f.Found = strings.TrimPrefix(r.Error, f.Check+": ")
			f.Outcome = checkWarning
			switch {
			case r.Enabled && r.Default && r.TooOld:
				f.Do = "the others run; it needs a newer kernel"
			case r.Enabled:
				f.Outcome = checkFailed
				f.Do = fmt.Sprintf("switch it off: probes.%s.enabled: false", r.Name)
			}
		}
		findings = append(findings, f)
	}
	return findings
}

// checkEndpoint goes the way of an export, step by step: name, TCP, TLS, an empty request.
func checkEndpoint(ctx context.Context, options *telemetry.OTLP) []finding {
	const why = "metrics are kept in the kernel and exported when the endpoint answers"
	u, err := url.Parse(options.Endpoint)
	if err != nil {
		return []finding{{Check: "endpoint", Outcome: checkWarning, Found: err.Error(), Why: why}}
	}
	var findings []finding
	step := func(name, found string, err error, do string) bool {
		if err != nil {
			findings = append(findings, finding{name, checkWarning, err.Error(), why, do})
			return false
		}
		findings = append(findings, finding{Check: name, Outcome: checkOK, Found: found})
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, 4*connectTimeout)
	defer cancel()
	dialer := net.Dialer{Timeout: connectTimeout}

	addresses, err := net.DefaultResolver.LookupHost(ctx, u.Hostname())
	if !step("endpoint name", u.Hostname()+" is "+strings.Join(addresses, ", "), err, "check export.endpoint and the DNS") {
		return findings
	}
	connection, err := dialer.DialContext(ctx, "tcp", u.Host)
	if !step("endpoint TCP", u.Host+" accepts connections", err,
		"start the Collector there, or set export.endpoint (OTEL_EXPORTER_OTLP_ENDPOINT)") {
		return findings
	}
	defer connection.Close()
	if u.Scheme == "https" {
		tlsConfig, err := options.TLS.Config()
		if err == nil {
			tlsConfig.ServerName = cmp.Or(tlsConfig.ServerName, u.Hostname())
			err = tls.Client(connection, tlsConfig).HandshakeContext(ctx)
		}
		if !step("endpoint TLS", "the certificate is trusted", err, "check export.tls.ca_file and server_name") {
			return findings
		}
	}
	step("endpoint OTLP", "takes "+string(options.Protocol)+" requests", telemetry.CheckExport(ctx, *options),
		"check export.protocol: grpc is usually on port 4317, http/protobuf on 4318")
	return findings
}
