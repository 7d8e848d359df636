// Command bench measures Vole beside its floor: the plain Go os and SQLite calls that
// any program would need for the same effect with the same durability, on the same
// disk, in the same run; for the bucket backend, the plain clients of PostgreSQL and S3. Ratios are what counts; absolute figures are the machine's.
//
// Each measurement takes turns (vole, floor, floor, vole, ...) over several rounds and
// gives the medians, so that a slow moment of the disk strikes both.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"runtime/pprof"
	"syscall"
	"text/tabwriter"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	missed, err := run(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	if missed {
		os.Exit(1)
	}
}

// run reports whether a goal was missed and -check asked for that to matter.
func run(ctx context.Context, args []string) (missed bool, err error) {
	fl := flag.NewFlagSet("bench", flag.ExitOnError)
	dir := fl.String("dir", ".", "measure on the disk of this directory, in a temporary one beneath it")
	only := fl.String("run", "", "measure only the benchmarks whose name matches this regular expression")
	asJSON := fl.Bool("json", false, "print JSON")
	quick := fl.Bool("quick", false, "small sizes and few rounds: shows that it works, not how fast")
	check := fl.Bool("check", false, "exit 1 when a goal is missed")
	rounds := fl.Int("rounds", 9, "rounds of each measurement")
	profile := fl.String("cpuprofile", "", "write a CPU profile to this file")
	entries := fl.Int("entries", 1_000_000, "entries of the large volume of bucket-scale: half a minute to load a million")
	list := fl.Bool("list", false, "list the benchmarks' names and end")
	fl.Parse(args)
	want, err := regexp.Compile(*only)
	if err != nil {
		return false, err
	}
	if *list {
		for _, b := range benchmarks {
			fmt.Println(b.name)
		}
		return false, nil
	}
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return false, err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return false, err
		}
		defer pprof.StopCPUProfile()
	}
	env, err := newEnv(ctx, *dir, *quick, *rounds)
	if err != nil {
		return false, err
	}
	env.entries = *entries
	defer func() {
		env.logProgress("removing %s", env.dir)
		if cerr := env.close(); err == nil {
			err = cerr
		}
	}()
	for _, b := range benchmarks {
		if !want.MatchString(b.name) {
			continue
		}
		env.logProgress("%s", b.name)
		if err := b.run(env); err != nil {
			return false, fmt.Errorf("%s: %w", b.name, err)
		}
	}
	if *asJSON {
		err = printJSON(os.Stdout, env.rows)
	} else {
		err = printTable(os.Stdout, env.rows)
	}
	for _, r := range env.rows {
		missed = missed || *check && !r.OK
	}
	return missed, err
}

// benchmark is one measurement, of one row or some.
type benchmark struct {
	name string
	run  func(*env) error
}

// The order matters for one thing: list grows the home that scale then uses.
var benchmarks = []benchmark{
	{"start", benchStart},
	{"create", benchCreate},
	{"get", benchGet},
	{"remove", benchRemove},
	{"read", benchRead},
	{"write", benchWrite},
	{"stream-write", benchStreamWrite},
	{"stream-read", benchStreamRead},
	{"entries", benchEntries},
	{"copy", benchCopy},
	{"copy-sparse", benchCopySparse},
	{"list", benchList},
	{"scale", benchScale},
	{"format", benchFormat},
	{"disk-small", benchDiskSmall},
	{"disk-big", benchDiskBig},
	{"disk-walk", benchDiskWalk},
	{"tree-out", benchTreeOut},
	{"tree-in", benchTreeIn},
	bucketBench("bucket-write", benchBucketWrite),
	bucketBench("bucket-read", benchBucketRead),
	bucketBench("bucket-rename", benchBucketRename),
	bucketBench("bucket-trees", benchBucketTrees),
	bucketBench("bucket-stream", benchBucketStream),
	bucketBench("bucket-scale", benchBucketScale),
	{"bucket-dir", benchBucketDir},
	{"server", benchServer},
	{"server-big", benchServerBig},
}

// Row is one line of the result.
type Row struct {
	What  string  `json:"what"`
	Vole  float64 `json:"vole"`
	Floor float64 `json:"floor"`
	Unit  string  `json:"unit"`
	Ratio float64 `json:"ratio"`          // Vole / Floor
	Goal  string  `json:"goal,omitempty"` // of the ratio
	OK    bool    `json:"ok"`             // the goal is met, or there is none
	Note  string  `json:"note,omitempty"`
}

func printJSON(w io.Writer, rows []Row) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(rows)
}

func printTable(w io.Writer, rows []Row) error {
	fmt.Fprintf(w, "\n%s, %s/%s, %d cores; medians; floor: plain calls of the same durability\n\n",
		runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "what\tvole\tfloor\tratio\tgoal\tok?\t")
	for _, r := range rows {
		ok := "yes"
		if r.Goal == "" {
			ok = ""
		} else if !r.OK {
			ok = "NO"
		}
		fmt.Fprintf(t, "%s\t%.4g %s\t%.4g %s\t%.2f\t%s\t%s\t%s\n", r.What, r.Vole, r.Unit, r.Floor, r.Unit, r.Ratio, r.Goal, ok, r.Note)
	}
	return t.Flush()
}
