// Command gensyscalls writes the table of system calls' numbers by architecture, made from the constants of golang.org/x/sys/unix:
// a line each, after one with the architectures. The argument is the file.
package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// The 64-bit architectures, and that of the 32-bit programs that each runs.
var architectures = []string{"amd64", "386", "arm64", "arm"}

var constant = regexp.MustCompile(`^\tSYS_(\w+)\s+= (\d+)$`)

// notCalls are constants that are not numbers of calls.
var notCalls = []string{"ARCH_SPECIFIC_SYSCALL", "SYSCALL_MASK"}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gensyscalls FILE")
		os.Exit(2)
	}
	if err := generate(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func generate(path string) error {
	module, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/sys").Output()
	if err != nil {
		return fmt.Errorf("find golang.org/x/sys: %w", err)
	}
	folder := filepath.Join(strings.TrimSpace(string(module)), "unix")
	numbers := make(map[string][]string) // by the call's name
	for column, architecture := range architectures {
		if err := read(filepath.Join(folder, "zsysnum_linux_"+architecture+".go"), func(name, number string) {
			if numbers[name] == nil {
				numbers[name] = slices.Repeat([]string{"-"}, len(architectures))
			}
			numbers[name][column] = number
		}); err != nil {
			return err
		}
	}
	lines := make([]string, 0, len(numbers))
	for name, all := range numbers {
		lines = append(lines, name+" "+strings.Join(all, " "))
	}
	slices.Sort(lines)
	lines = append([]string{"name " + strings.Join(architectures, " ")}, lines...)
	return os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644)
}

// read calls a function for each call in a file of constants.
func read(path string, found func(name, number string)) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if m := constant.FindStringSubmatch(lines.Text()); m != nil && !slices.Contains(notCalls, m[1]) {
			found(strings.ToLower(m[1]), m[2])
		}
	}
	return lines.Err()
}
