// Command vole keeps named volumes for sandboxes: it makes, finds, changes and
// removes them, moves files in and out, and runs programs with volumes attached.
package main

import (
	"context"
	"errors"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/volehq/vole/sandbox"
)

// mainExitCode is main of the binary without the exit, so that the script tests can run it too.
func mainExitCode() int {
	sandbox.Init()
	runHelperIfAsked()
	return runCommandLine(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}

// runCommandLine executes one command line and returns the exit code. The first SIGINT or
// SIGTERM cancels the context, which lets a command clean up; after it the signals
// have their usual effect again, so that a second one ends the process at once.
func runCommandLine(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), withoutIgnoredSignals(os.Interrupt)...)
	defer stop()
	defer context.AfterFunc(ctx, stop)()

	// net/http would write to standard error what it makes of a server that answers unasked.
	// Servers of this program have logs of their own.
	log.SetOutput(io.Discard)

	a := newApp(stdin, stdout, stderr)
	root := newRootCmd(a)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	a.interrupted = func() bool { return ctx.Err() != nil }
	cmd, err := root.ExecuteContextC(ctx)
	err = a.endCommand(cmd.Context(), err)
	code := a.reportAndExitCode(errors.Join(err, a.helpErr))
	_ = a.stdout.flushPartialRune()
	_ = a.stderr.flushPartialRune()
	return code
}

// withoutIgnoredSignals returns those of sigs that whoever started the process did not tell it to
// ignore, as nohup and a shell's background jobs do; SIGTERM always.
func withoutIgnoredSignals(sigs ...os.Signal) []os.Signal {
	list := []os.Signal{syscall.SIGTERM} // of no signals Notify would make all
	for _, s := range sigs {
		if s != syscall.SIGTERM && !signal.Ignored(s) {
			list = append(list, s)
		}
	}
	return list
}
