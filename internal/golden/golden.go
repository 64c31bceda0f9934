// Package golden compares what tests make with files that were found good.
package golden

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Updating tells whether the files are being written anew, so that there is no use in waiting for what they have.
func Updating() bool { return *update }

// Check compares got with the file of that name in testdata.
func Check(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s is not as before (go test -update, if it is meant); got\n%s\nwant\n%s", path, got, want)
	}
}
