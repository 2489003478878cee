// What Go's runtime does with threads, and C with Go. What it prints doesn't
// depend on what runs first.
package main

/*
void makes_threads(void);
void sorts(int *numbers, int count);
*/
import "C"

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sort"
	"sync"
	"sync/atomic"
	"syscall"
)

var sum int64

//export goCallback
func goCallback(number C.int) { atomic.AddInt64(&sum, int64(number)) }

//export goCompare
func goCompare(a, b C.int) C.int { return a - b }

// Deep enough for the stack to be moved several times.
func deep(n int) int {
	var room [64]int
	room[n%64] = n
	if n == 0 {
		return 0
	}
	return deep(n-1) + room[n%64] - n + 1
}

func work(number int) {
	runtime.LockOSThread()
	C.makes_threads()
	numbers := make([]C.int, 200)
	for k := range numbers {
		numbers[k] = C.int((k*37 + number) % 101)
	}
	C.sorts(&numbers[0], C.int(len(numbers)))
	if !sort.SliceIsSorted(numbers, func(a, b int) bool { return numbers[a] < numbers[b] }) {
		panic("not sorted")
	}
	atomic.AddInt64(&sum, int64(deep(20000)))
	// The threads of the others end with them.
	if number%2 == 0 {
		runtime.UnlockOSThread()
	}
}

func main() {
	var wait sync.WaitGroup
	for i := 0; i < 8; i++ {
		wait.Add(1)
		go func(i int) {
			defer wait.Done()
			work(i)
		}(i)
	}
	wait.Wait()
	fmt.Println(sum)

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	syscall.Kill(os.Getpid(), syscall.SIGUSR1)
	fmt.Println(<-signals)

	output, err := exec.Command("sh", "-c", "echo a child; exit 3").CombinedOutput()
	fmt.Printf("%q %v\n", output, err)

	func() {
		defer func() { fmt.Println("recovered:", recover()) }()
		var nothing *int
		*nothing = 1
	}()
	runtime.GC()
	os.Exit(5)
}
