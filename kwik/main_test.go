package kwik

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain fails the run if a test leaves a goroutine or holds a pooled block. Inside a
// synctest bubble that is synctest's own rule; this is for the tests over real sockets.
func TestMain(m *testing.M) {
	code := m.Run()
	if left := leftGoroutines(5 * time.Second); left != "" {
		fmt.Fprintf(os.Stderr, "goroutines are left after the tests:\n\n%s\n", left)
		code = 1
	}
	if held := blocksHeld.Load(); held != 0 && code == 0 {
		fmt.Fprintf(os.Stderr, "%d blocks are held after the tests\n", held)
		code = 1
	}
	os.Exit(code)
}

// leftGoroutines returns the stacks of all goroutines but this one and the runtime's, after
// waiting for them to end.
func leftGoroutines(most time.Duration) string {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	give := time.Now().Add(most)
	for {
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		var left []string
		for i, stack := range strings.Split(strings.TrimSpace(string(buf)), "\n\n") {
			if i > 0 && !strings.Contains(stack, "os/signal.") { // the first is this one
				left = append(left, stack)
			}
		}
		if len(left) == 0 || time.Now().After(give) {
			return strings.Join(left, "\n\n")
		}
		<-ticker.C
	}
}
