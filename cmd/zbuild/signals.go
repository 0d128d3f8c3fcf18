package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// together is how far apart two signals may come and still be one: a rootless
// process gets a Ctrl-C from the terminal and again from the process that put it
// into its user namespace.
const together = 300 * time.Millisecond

// interruptible is a context that SIGINT, SIGTERM and SIGHUP cancel, with the
// cause errInterrupted. Another signal while the process is winding up ends it at
// once. The caller calls stop when it has nothing left to wind up.
func interruptible(parent context.Context, stderr io.Writer) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	quit := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		var first time.Time
		for {
			select {
			case <-quit:
				return
			case <-signals:
			}
			switch now := time.Now(); {
			case first.IsZero():
				first = now
				cancel(errInterrupted)
			case now.Sub(first) > together:
				fmt.Fprintln(stderr, "zbuild: interrupted again: leaving at once; the next start cleans up")
				os.Exit(exitInterrupted)
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(quit)
		<-done
		cancel(nil)
	}
}
