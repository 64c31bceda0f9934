package e2e

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	if os.Getenv(helperVariable) == "leader" {
		runtime.LockOSThread() // main() stays on the process's first thread
	}
}

// helperMain is the test binary as a helper program; it does not return.
func helperMain(mode string) {
	switch mode {
	case "threads": // starts threads and prints how many the process had besides its first
		for range 1 + time.Now().Nanosecond()%20 {
			go func() {
				runtime.LockOSThread()
				select {}
			}()
		}
		before := -1
		for now := threads(); now != before; now = threads() {
			before = now
			time.Sleep(50 * time.Millisecond)
		}
		fmt.Println(before - 1)
		exitGroup(0)
	case "leader": // the first thread ends before the others do
		go func() {
			for {
				stat, _ := os.ReadFile("/proc/self/task/" + strconv.Itoa(os.Getpid()) + "/stat")
				if _, state, _ := bytes.Cut(stat, []byte(") ")); len(state) == 0 || state[0] == 'Z' {
					exitGroup(41)
				}
				time.Sleep(time.Millisecond)
			}
		}()
		_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT, 3, 0, 0)
	case "group": // a thread that is not the first ends the process
		go func() {
			runtime.LockOSThread()
			exitGroup(42)
		}()
		select {}
	case "memfd": // executes a copy of a program that has no file
		program, err := os.ReadFile("/bin/true")
		if err != nil {
			panic(err)
		}
		fd, err := unix.MemfdCreate("known", unix.MFD_CLOEXEC)
		if err != nil {
			panic(err)
		}
		if _, err := unix.Write(fd, program); err != nil {
			panic(err)
		}
		panic(syscall.Exec(fmt.Sprintf("/proc/self/fd/%d", fd), []string{"memfd"}, nil))
	}
	panic("unknown helper " + mode)
}

func exitGroup(code int) {
	_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT_GROUP, uintptr(code), 0, 0)
}

func threads() int {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		panic(err)
	}
	_, after, _ := strings.Cut(string(status), "\nThreads:\t")
	n, err := strconv.Atoi(strings.SplitN(after, "\n", 2)[0])
	if err != nil {
		panic(err)
	}
	return n
}
