// Package terminal lets tests use a program in a terminal, which tmux emulates.
package terminal

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Terminal is one with a program in it. It goes with the test.
type Terminal struct {
	t      testing.TB
	socket string
}

// New runs a command of the shell's in a terminal of so many columns and lines, and tmux's style ("fg=black,bg=white", or
// "default"). Nothing of the terminal that the test runs in is in its environment.
func New(t testing.TB, width, height int, style, command string) *Terminal {
	t.Helper()
	directory := t.TempDir()
	term := &Terminal{t, filepath.Join(directory, "tmux")}
	configuration := filepath.Join(directory, "tmux.conf")
	text := fmt.Sprintf("set -g default-terminal tmux-256color\nset -g status off\nset -g remain-on-exit on\nset -g window-style %q\n", style)
	if err := os.WriteFile(configuration, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	term.tmux("-u", "-f", configuration, "new-session", "-d", "-x", fmt.Sprint(width), "-y", fmt.Sprint(height),
		"exec env -u NO_COLOR -u COLORTERM -u TERM_PROGRAM -u TMUX LC_ALL=C.UTF-8 "+command)
	t.Cleanup(func() { term.tmux("kill-server") })
	return term
}

func (t *Terminal) tmux(arguments ...string) string {
	t.t.Helper()
	output, err := exec.Command("tmux", append([]string{"-S", t.socket}, arguments...)...).CombinedOutput()
	if err != nil {
		t.t.Fatalf("tmux %s: %v (apt-get install tmux)\n%s", strings.Join(arguments, " "), err, output)
	}
	return string(output)
}

// Press presses keys, by tmux's names for them.
func (t *Terminal) Press(keys ...string) {
	t.t.Helper()
	t.tmux(append([]string{"send-keys"}, keys...)...)
}

// Screen is what is to be seen now.
func (t *Terminal) Screen() string {
	t.t.Helper()
	return t.tmux("capture-pane", "-p")
}

// ColouredScreen is Screen with the escape sequences that colour it.
func (t *Terminal) ColouredScreen() string {
	t.t.Helper()
	return t.tmux("capture-pane", "-p", "-e")
}

// Resize makes the terminal larger or smaller.
func (t *Terminal) Resize(width, height int) {
	t.t.Helper()
	t.tmux("resize-window", "-x", fmt.Sprint(width), "-y", fmt.Sprint(height))
}

// PID is the process identifier of the command.
func (t *Terminal) PID() string {
	t.t.Helper()
	return strings.TrimSpace(t.tmux("display-message", "-p", "#{pane_pid}"))
}

// Ended tells whether the command has ended, and with which exit code or signal.
func (t *Terminal) Ended() (code string, ended bool) {
	t.t.Helper()
	state, code, _ := strings.Cut(strings.TrimSpace(t.tmux("display-message", "-p", "#{pane_dead} #{pane_dead_status}#{pane_dead_signal}")), " ")
	if state == "1" && code == "" {
		t.tmux("run-shell", "true") // tmux may miss that a child ends; with the next one it finds both
	}
	return code, state == "1" && code != ""
}
