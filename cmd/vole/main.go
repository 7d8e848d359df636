// Command vole keeps named volumes for sandboxes: it makes, finds, changes and
// removes them, moves files in and out, and runs programs with volumes attached.
//
// # How a command works
//
// A file has one command: newNAMECmd says its flags, help and completion, and what the command
// does is a function beside it. All of them share one app, which has the streams and the global
// flags. A run goes through these steps:
//
//  1. cobra finds the command and parses its flags. Whatever fails until then is an error of
//     usage (app.started is false).
//  2. The hook of the root command refuses empty arguments and flags, and applies --timeout.
//  3. The command checks what it was given, before it opens anything, so that a mistyped flag
//     is reported also where no volumes can be reached.
//  4. It opens what it works on (openStore, openFS, openServer, openSandboxes).
//  5. When it has returned, endCommand closes all of that, the last first. An error of closing
//     is an error of the command: what was written in batch mode is durable only then.
//  6. reportAndExitCode prints the errors and decides the exit code.
//
// Output has two ways. The program's own text goes through screen, which lets no control
// character from outside reach a terminal; payload (content of files, output of programs) goes
// past it as it is.
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

// withoutIgnoredSignals returns those of sigs that the process was not started with as ignored, as
// nohup and a shell start background jobs; SIGTERM always.
func withoutIgnoredSignals(sigs ...os.Signal) []os.Signal {
	list := []os.Signal{syscall.SIGTERM} // of no signals Notify would make all
	for _, s := range sigs {
		if s != syscall.SIGTERM && !signal.Ignored(s) {
			list = append(list, s)
		}
	}
	return list
}
