package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

// text joins the files below a directory of the repository whose names end so, string constants as they are printed. Tests
// are asked for as such.
func text(t *testing.T, directory, suffix string) string {
	t.Helper()
	const test = "_test.go"
	var all strings.Builder
	err := filepath.WalkDir(filepath.Join(root, directory), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, suffix) || suffix != test && strings.HasSuffix(path, test) {
			return err
		}
		b, err := os.ReadFile(path)
		all.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	joined := regexp.MustCompile(`" \+\n\s*"`).ReplaceAllString(all.String(), "")
	return strings.NewReplacer(`\"`, `"`, `\n`, "").Replace(joined)
}

// TestMessages checks that the messages that troubleshooting is by, up to what differs, are still in the code.
func TestMessages(t *testing.T) {
	var code string
	for _, directory := range []string{"cmd", "config", "probes", "series", "telemetry"} {
		code += text(t, directory, ".go")
	}
	page := text(t, "docs", "troubleshooting.md")
	messages := regexp.MustCompile("(?m)^### `(.+)`$").FindAllStringSubmatch(page, -1)
	_, table, _ := strings.Cut(page, "| message | cause |")
	table, _, _ = strings.Cut(table, "\n\n")
	messages = append(messages, regexp.MustCompile("(?m)^\\| `(.+?)` \\|").FindAllStringSubmatch(table, -1)...)
	if len(messages) < 20 {
		t.Errorf("%d messages only", len(messages))
	}
	for _, message := range messages {
		for part := range strings.SplitSeq(message[1], "…") {
			if !strings.Contains(code, strings.TrimSpace(part)) {
				t.Errorf("%s: the code does not say %q", message[1], part)
			}
		}
	}
}

// TestReferences checks that what the pages link to and the tests that they name are there.
func TestReferences(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(root, "docs/*.md"))
	if err != nil || len(pages) == 0 {
		t.Fatal(err)
	}
	tests := text(t, ".", "_test.go")
	for _, page := range append(pages, filepath.Join(root, "README.md")) {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range regexp.MustCompile(`\]\(([^)#:]+)[^)]*\)`).FindAllStringSubmatch(string(b), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), link[1])); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
		for _, name := range regexp.MustCompile(`\bTest[A-Z]\w+`).FindAllString(string(b), -1) {
			if !strings.Contains(tests, "func "+name+"(") {
				t.Errorf("%s: there is no %s", page, name)
			}
		}
	}
}

// TestCode checks that the code that a page shows is in the file that it named last.
func TestCode(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs/adding-a-probe.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```(?:c|go)\n(.*?)```").FindAllSubmatchIndex(page, -1)
	if len(blocks) == 0 {
		t.Fatal("it shows no code")
	}
	named := regexp.MustCompile("`((?:bpf|probes)/signals\\S*\\.(?:c|go))`")
	for _, block := range blocks {
		names := named.FindAllSubmatch(page[:block[0]], -1)
		file := string(names[len(names)-1][1])
		content, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		if code := string(page[block[2]:block[3]]); !strings.Contains(string(content), code) {
			t.Errorf("%s has no\n%s", file, code)
		}
	}
}
