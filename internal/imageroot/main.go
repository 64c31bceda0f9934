// Command imageroot writes the root file system of the container's image, as a tar archive: the binary, the certificates that TLS
// trusts, and a folder for the socket that any user may write to.
//
//	go run ./internal/imageroot BINARY CERTIFICATES >root.tar
package main

import (
	"archive/tar"
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: imageroot BINARY CERTIFICATES")
		os.Exit(2)
	}
	if err := write(os.Stdout, os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func write(to io.Writer, program, certificates string) error {
	w := tar.NewWriter(to)
	if err := add(w, program, "sidecar", 0o755, map[string]string{"SCHILY.xattr.security.capability": capabilities()}); err != nil {
		return err
	}
	if err := add(w, certificates, "etc/ssl/certs/ca-certificates.crt", 0o644, nil); err != nil { // crypto/x509/root_linux.go
		return err
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "run/sidecar/", Mode: 0o1777}); err != nil {
		return err
	}
	return w.Close()
}

// add adds a file. It is root's, and without a time, so that the same files make the same image.
func add(w *tar.Writer, path, name string, mode int64, records map[string]string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content)), PAXRecords: records}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err = w.Write(content)
	return err
}

// capabilities is what setcap cap_bpf,cap_perfmon=p writes: struct vfs_cap_data of linux/capability.h. A user who is not root has
// them in a container that was given them; the sidecar makes them effective.
func capabilities() string {
	const revision2 = 0x02000000 // VFS_CAP_REVISION_2, and not VFS_CAP_FLAGS_EFFECTIVE
	permitted := uint64(1<<unix.CAP_BPF | 1<<unix.CAP_PERFMON)
	words := []uint32{revision2, uint32(permitted), 0, uint32(permitted >> 32), 0} // permitted, inheritable; the low half first
	var b []byte
	for _, word := range words {
		b = binary.LittleEndian.AppendUint32(b, word)
	}
	return string(b)
}
