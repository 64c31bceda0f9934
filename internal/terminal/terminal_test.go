package terminal

import (
	"testing"
	"time"
)

// TestEnded has many commands end soon: of some of them tmux does not know at once how.
func TestEnded(t *testing.T) {
	for range 20 {
		for command, want := range map[string]string{"sleep 0.05": "0", "sh -c 'exit 3'": "3", "sh -c 'kill -KILL $$'": "9"} {
			term := New(t, 20, 5, "default", command)
			code, ended := term.Ended()
			for deadline := time.Now().Add(5 * time.Second); !ended && time.Now().Before(deadline); code, ended = term.Ended() {
				time.Sleep(10 * time.Millisecond)
			}
			if !ended || code != want {
				t.Fatalf("%s: ended: %t, with %q", command, ended, code)
			}
		}
	}
}
