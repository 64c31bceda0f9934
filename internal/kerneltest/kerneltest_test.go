package kerneltest

import "testing"

func TestReason(t *testing.T) {
	for name, c := range map[string]struct {
		log   []string
		want  string
		lacks bool
	}{
		"one line":       {[]string{"    a_test.go:9: needs Linux 5.19: contention"}, "needs Linux 5.19: contention", true},
		"two lines":      {[]string{"    a_test.go:9: needs Linux 5.19:", "        contention"}, "needs Linux 5.19: contention", true},
		"last":           {[]string{"    a_test.go:8: hello", "    a_test.go:9: needs Linux 5.19: contention"}, "needs Linux 5.19: contention", true},
		"said before":    {[]string{"    a_test.go:8: needs Linux 5.19: contention", "    a_test.go:9: no runqlat"}, "no runqlat", false},
		"said besides":   {[]string{"    a_test.go:9: what needs Linux 5.19: contention"}, "what needs Linux 5.19: contention", false},
		"feature unsaid": {[]string{"    a_test.go:9: needs Linux 5.19"}, "needs Linux 5.19", false},
		"none given":     {nil, "no reason given", false},
	} {
		t.Run(name, func(t *testing.T) {
			got := Reason(c.log)
			if got != c.want || LacksFeature(got) != c.lacks {
				t.Errorf("got %q, %t; want %q, %t", got, LacksFeature(got), c.want, c.lacks)
			}
		})
	}
}
