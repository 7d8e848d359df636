package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/bucket"
)

// sweptJSON is what a sweep removed.
type sweptJSON struct {
	Blobs   int64     `json:"blobs"`
	Size    vole.Size `json:"size"`
	Volumes int64     `json:"volumes"`
}

func newBucketSweepCmd(a *app) *cobra.Command {
	var flags bucketFlags
	var grace time.Duration
	cmd := &cobra.Command{
		Use:   "sweep",
		Short: "Remove data that nothing refers to any more",
		Long: `Do once what the processes of a namespace do regularly by themselves: release what dead
processes held, remove the remains of removed volumes and trees, and delete the blobs that
nothing has referred to for the grace time.

A grace time shorter than the time since the last export deletes blobs that its manifests
refer to; one shorter than a write under way makes that write fail. Blobs that have not
been used yet stay for an hour, unless the grace time is less than a second: then no
writes may be under way.`,
		Example: `  vole bucket sweep --dir /srv/vole
  vole bucket sweep --dir /srv/vole --grace 1h`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.sweepNamespace(cmd, &flags, grace) },
	}
	flags.register(cmd)
	cmd.Flags().DurationVar(&grace, "grace", 24*time.Hour, "keep unreferenced blobs for this `time`; at least the time between two exports")
	return cmd
}

// sweepNamespace sweeps once, and prints what that removed.
func (a *app) sweepNamespace(cmd *cobra.Command, flags *bucketFlags, grace time.Duration) error {
	if grace <= 0 || grace > longestTime {
		return usageErrorf("--grace %v: must be more than 0 and at most %v", grace, longestTime)
	}
	counters := prometheus.NewRegistry()
	flags.opts.Grace, flags.opts.Metrics = grace, counters
	return a.withNamespace(cmd.Context(), "sweep", flags, func(ns *bucket.Namespace) error {
		if err := ns.Maintain(cmd.Context()); err != nil {
			return err
		}
		count := func(name string) int64 { return counterValue(counters, "vole_bucket_"+name) }
		j := sweptJSON{count("swept_blobs_total"), vole.Size(count("swept_bytes_total")), count("removed_volumes_total")}
		return a.printResult(j, "swept %s, %s; %d removed volumes are gone\n", countOf(int64(j.Blobs), "blob"), a.sizeInText(j.Size), j.Volumes)
	})
}

// counterValue is the value of a counter.
func counterValue(g prometheus.Gatherer, name string) int64 {
	families, _ := g.Gather() // of counters of our own: cannot fail
	for _, f := range families {
		if f.GetName() == name && len(f.GetMetric()) == 1 {
			return int64(f.GetMetric()[0].GetCounter().GetValue())
		}
	}
	return 0
}
