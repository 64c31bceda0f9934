package probes

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// cleanName makes a name that a process chose fit for export and for terminals: what is not valid UTF-8, or not printable
// (control characters, terminal escapes, direction overrides), becomes a Go escape such as \xff, \n or \u202e.
func cleanName(name []byte) string {
	var clean strings.Builder
	for len(name) > 0 {
		r, size := utf8.DecodeRune(name)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&clean, `\x%02x`, name[0])
		case strconv.IsPrint(r):
			clean.WriteRune(r)
		default:
			quoted := strconv.QuoteRune(r)
			clean.WriteString(quoted[1 : len(quoted)-1])
		}
		name = name[size:]
	}
	return clean.String()
}

// ErrorType is the attribute that an errnoName is the value of.
const ErrorType = "error.type"

// restarts are the errors with which the kernel ends a call that is to go on after a signal (include/linux/errno.h). Programs
// see EINTR, or the result of the call that is made again.
var restarts = map[unix.Errno]string{
	512: "ERESTARTSYS",
	513: "ERESTARTNOINTR",
	514: "ERESTARTNOHAND",
	516: "ERESTART_RESTARTBLOCK",
}

// errnoName is the name of an error, as in errno(3).
func errnoName(errno unix.Errno) string {
	if name := unix.ErrnoName(errno); name != "" {
		return name
	}
	if name := restarts[errno]; name != "" {
		return name
	}
	return fmt.Sprintf("errno_%d", uint(errno))
}

// SignalName is the attribute that a signalName is the value of.
const SignalName = "linux.signal.name"

// signalName is the name of a signal on this architecture, as in signal(7).
func signalName(signal int) string {
	const sigRTMin = 32 // the kernel's; C libraries keep the first few for themselves
	if name := unix.SignalName(unix.Signal(signal)); name != "" {
		return name
	}
	if signal >= sigRTMin {
		return fmt.Sprintf("SIGRTMIN+%d", signal-sigRTMin)
	}
	return fmt.Sprintf("SIG%d", signal)
}
