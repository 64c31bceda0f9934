package probes

import (
	"testing"
)

func TestCleanName(t *testing.T) {
	for name, want := range map[string]string{
		"":                     "",
		"nginx":                "nginx",
		"with space":           "with space",
		"ünïcödé 漢字":           "ünïcödé 漢字",
		"\xff":                 `\xff`,
		"a\xc3":                `a\xc3`,
		"\xed\xa0\x80":         `\xed\xa0\x80`, // a surrogate
		"line\nfeed\r\ttab":    `line\nfeed\r\ttab`,
		"\x1b[31m":             `\x1b[31m`,
		"\x9b31m":              `\x9b31m`,
		"\u009b31m":            `\u009b31m`,
		"\u202etxt.exe":        `\u202etxt.exe`,
		"zero\u200bwidth":      `zero\u200bwidth`,
		"no\u00a0break":        `no\u00a0break`,
		"line\u2028separator":  `line\u2028separator`,
		"\ufeffmark":           `\ufeffmark`,
		"\ufffd":               "\ufffd", // valid, and printable
		"\U0001f600":           "\U0001f600",
		"\U000e0041":           `\U000e0041`, // a tag
		`"quoted" 'too' \back`: `"quoted" 'too' \back`,
		"\x00\x7f":             `\x00\x7f`,
	} {
		if got := cleanName([]byte(name)); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func FuzzCleanName(f *testing.F) {
	for _, name := range hostileNames {
		f.Add([]byte(name))
	}
	f.Fuzz(func(t *testing.T, name []byte) {
		clean := cleanName(name)
		if !isClean(clean) {
			t.Errorf("%q is not clean: %q", name, clean)
		}
		if again := cleanName([]byte(clean)); again != clean {
			t.Errorf("%q becomes %q, then %q", name, clean, again)
		}
		if isClean(string(name)) && clean != string(name) {
			t.Errorf("%q was clean, and became %q", name, clean)
		}
	})
}

func TestSignalName(t *testing.T) {
	for signal, want := range map[int]string{
		1: "SIGHUP", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM", 31: "SIGSYS",
		32: "SIGRTMIN+0", 42: "SIGRTMIN+10", 64: "SIGRTMIN+32",
		0: "SIG0",
	} {
		if got := signalName(signal); got != want {
			t.Errorf("signal %d: %s, want %s", signal, got, want)
		}
	}
	seen := make(map[string]bool)
	for signal := 1; signal <= 64; signal++ {
		if name := signalName(signal); seen[name] {
			t.Errorf("two signals %s", name)
		} else {
			seen[name] = true
		}
	}
}

func TestAttributesKey(t *testing.T) {
	sets := [][]Attribute{
		nil,
		{{"a", "b"}},
		{{"a", "b"}, {"c", "d"}},
		{{"c", "d"}, {"a", "b"}},
		{{"a", `b",c="d`}},
		{{"a", `b",string "c"`}},
		{{`a"=string "b`, ""}},
		{{"a", "1"}},
		{{"a", int64(1)}},
		{{"a", true}},
		{{"a", "true"}},
		{{"a", ""}},
		{{"", "a"}},
		{{"a", int64(0x41)}},
		{{"a", "A"}},
	}
	for i, one := range sets {
		for j, other := range sets {
			if got := attributesKey(one) == attributesKey(other); got != (i == j) {
				t.Errorf("%v and %v have equal keys: %v", one, other, got)
			}
		}
	}
}

// Points of a group are told apart by pointers, which stay the same.
func TestGroupPoint(t *testing.T) {
	g := &group{attributes: append(make([]Attribute, 0, 8), Attribute{"a", "b"})}
	one := g.point(1, []Attribute{{"type", "one"}})
	zero := g.point(0, nil)
	if one != g.point(1, nil) || zero != g.point(0, nil) || one == zero {
		t.Error("not the same pointers again")
	}
	if got := attributesKey(one.List); got != attributesKey([]Attribute{{"a", "b"}, {"type", "one"}}) {
		t.Errorf("%v", one.List)
	}
	two := g.point(2, []Attribute{{"type", "two"}})
	if one.List[1].Value != "one" || two.List[1].Value != "two" {
		t.Errorf("points share their attributes' memory: %v, %v", one.List, two.List)
	}
}
