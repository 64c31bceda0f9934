package kerneltest

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// HelperVariable makes a test binary a helper, whose name and arguments the value holds. The tests need programs whose
// threads, exits and waits are known to the last one, and a virtual machine of the matrix has none.
const HelperVariable = "SIDECAR_TEST_HELPER"

// GaveUp is the exit code of a helper that could not do what it was asked to.
const GaveUp = 99

func init() {
	if os.Getenv(HelperVariable) != "" {
		runtime.LockOSThread() // the main goroutine to the main thread, the leader of the process
	}
}

// BeHelper runs the helper that was asked for, one of a package's own or of those below, and ends the process. It returns
// if there was none.
func BeHelper(own map[string]func(arguments []string)) {
	helpers := map[string]func(arguments []string){"leader": helpLeader, "group": helpGroup, "threads": helpThreads, "wait": func([]string) { Wait() }}
	maps.Copy(helpers, own)
	if words := strings.Fields(os.Getenv(HelperVariable)); len(words) > 0 {
		helpers[words[0]](words[1:])
		os.Exit(0)
	}
}

// GiveUp ends a helper.
func GiveUp(err error) {
	fmt.Fprintln(os.Stderr, "helper:", err)
	os.Exit(GaveUp)
}

// Number is the n-th argument of a helper.
func Number(arguments []string, n int) int {
	value, err := strconv.Atoi(arguments[n])
	if err != nil {
		GiveUp(err)
	}
	return value
}

// helpLeader lets the leader thread exit, then ends the process from another thread.
func helpLeader(arguments []string) {
	code := Number(arguments, 0)
	go func() {
		runtime.LockOSThread()
		for {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/stat", os.Getpid()))
			if err != nil {
				GiveUp(err)
			}
			if strings.Contains(string(stat), ") Z ") {
				break
			}
			time.Sleep(time.Millisecond)
		}
		_, _, _ = syscall.Syscall(syscall.SYS_EXIT_GROUP, uintptr(code), 0, 0)
	}()
	_, _, _ = syscall.Syscall(syscall.SYS_EXIT, 33, 0, 0) // of this thread alone
}

// helpGroup ends the process from a thread that is not the leader, which is still there.
func helpGroup(arguments []string) {
	code := Number(arguments, 0)
	go func() {
		runtime.LockOSThread()
		if syscall.Gettid() == syscall.Getpid() {
			GiveUp(errors.New("on the leader thread"))
		}
		_, _, _ = syscall.Syscall(syscall.SYS_EXIT_GROUP, uintptr(code), 0, 0)
	}()
	time.Sleep(time.Minute)
}

// helpThreads says so when there are n threads more, and stays.
func helpThreads(arguments []string) {
	StartThreads(Number(arguments, 0))
	Wait()
}

// StartThreads returns when there are n threads more, which then sleep.
func StartThreads(n int) {
	var ready sync.WaitGroup
	ready.Add(n)
	for range n {
		go func() {
			runtime.LockOSThread()
			ready.Done()
			select {}
		}()
	}
	ready.Wait()
}

// Wait says that a helper is there, and returns when its input ends.
func Wait() {
	fmt.Println("ready")
	_, _ = os.Stdin.Read(make([]byte, 1))
}
