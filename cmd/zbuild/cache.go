package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"

	"github.com/zbuild/zbuild/internal/render"
	"github.com/zbuild/zbuild/internal/session"
	"github.com/zbuild/zbuild/runner"
)

// cacheCmd shows and shrinks what builds have kept.
type cacheCmd struct {
	Du    cacheDuCmd    `cmd:"" help:"Show what is cached, how big it is and when it was last used."`
	Prune cachePruneCmd `cmd:"" help:"Remove what no build can use any more; with flags also more than that."`
}

// Help is shown by 'zbuild cache --help'.
func (cacheCmd) Help() string {
	return `The results of steps are kept in the store, so that the steps need not run again, and so are the directories of cache mounts. Images do not depend on them: removing them from the cache takes nothing away from an image.`
}

// cacheDuCmd shows what there is.
type cacheDuCmd struct {
	Format string `enum:"text,json" default:"text" help:"text or json."`
}

// cachePruneCmd removes.
type cachePruneCmd struct {
	All       bool  `short:"a" xor:"what,size" help:"Remove everything: also cache mounts and what was fetched from URLs and git repositories."`
	OlderThan age   `xor:"what" placeholder:"AGE" help:"Also remove steps, cache mounts and fetched files that have not been used for this long: 90m, 24h, 7d."`
	KeepSize  *size `xor:"size" placeholder:"SIZE" help:"Also remove steps, the least recently used first, until they take no more than this: 500MB, 10GB. Cache mounts do not count."`
	DryRun    bool  `short:"n" help:"Say what would be removed and remove nothing."`
}

// Help is shown by 'zbuild cache prune --help'.
func (cachePruneCmd) Help() string {
	return `Removes what no build can use: results that were replaced, and entries whose results are gone. With flags it removes more. What running builds use stays, and no build has to wait. Images stay, too: 'podman rmi' and 'podman image prune' remove those.

After every bake the cache is brought back within --cache-max-size and --cache-max-age, so there is seldom a need to prune.

Examples:

  zbuild cache prune --older-than 7d --keep-size 20GB
  zbuild cache prune --all --dry-run`
}

// age is a duration on the command line, in which days are allowed.
type age time.Duration

// UnmarshalText reads an age.
func (a *age) UnmarshalText(text []byte) error {
	s := string(text)
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n int
		const most = 100 * 365
		if n, err = strconv.Atoi(days); err == nil && n > most {
			err = errors.New("too long")
		}
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d <= 0 {
		return fmt.Errorf("%q is not an age: want a number and a unit, as in 90m, 24h or 7d", s)
	}
	*a = age(d)
	return nil
}

// size is a number of bytes on the command line.
type size int64

// UnmarshalText reads a size.
func (s *size) UnmarshalText(text []byte) error {
	n, err := units.FromHumanSize(string(text))
	if err != nil || n < 0 {
		return fmt.Errorf("%q is not a size: want a number and a unit, as in 500MB or 10GB", text)
	}
	*s = size(n)
	return nil
}

// unlimited is how a limit is called that does not bound anything.
const unlimited = "none"

// share is a size on the command line that may be a part of the disk.
type share struct {
	Bytes   int64
	Percent int
}

// UnmarshalText reads a size or a percentage.
func (s *share) UnmarshalText(text []byte) error {
	*s = share{}
	if string(text) == unlimited {
		return nil
	}
	if number, ok := strings.CutSuffix(string(text), "%"); ok {
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 || n > 100 {
			return fmt.Errorf("%q is not a share of a disk: want 1%% to 100%%", text)
		}
		s.Percent = n
		return nil
	}
	var n size
	if err := n.UnmarshalText(text); err != nil || n == 0 {
		return fmt.Errorf("%q is not a size: want a number and a unit, as in 500MB or 10GB, or a share of the disk, as in 20%%, or none", text)
	}
	s.Bytes = int64(n)
	return nil
}

// lifetime is an age on the command line that may be unlimited.
type lifetime time.Duration

// UnmarshalText reads an age.
func (l *lifetime) UnmarshalText(text []byte) error {
	*l = 0
	if string(text) == unlimited {
		return nil
	}
	var a age
	if err := a.UnmarshalText(text); err != nil {
		return fmt.Errorf("%w, or none", err)
	}
	*l = lifetime(a)
	return nil
}

// withCache opens the engine for what has to do with its cache.
func (a *app) withCache(do func(context.Context, *runner.DirCache, runner.SnapshotStore) error) error {
	if err := enterNamespace(); err != nil {
		return err
	}
	ctx, stop := interruptible(context.Background(), a.stderr)
	defer stop()
	engine, err := openEngine(ctx, a.engine, a.log)
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return withDoctor(&session.EngineError{Err: err})
	}
	store, ok := engine.(runner.SnapshotStore)
	if !ok {
		return errors.Join(errors.New("this engine keeps no cache of its own"), engine.Close())
	}
	return errors.Join(do(ctx, session.StepCache(engine), store), engine.Close())
}

// Run shows.
func (c *cacheDuCmd) Run(a *app) error {
	var inv *runner.Inventory
	err := a.withCache(func(ctx context.Context, cache *runner.DirCache, store runner.SnapshotStore) (err error) {
		inv, err = runner.TakeInventory(ctx, cache, store)
		return err
	})
	if err != nil {
		return err
	}
	return writeUsage(a, usageOf(inv), c.Format)
}

func writeUsage(a *app, u cacheUsage, format string) error {
	if format == "json" {
		return writeJSON(a.stdout, u)
	}
	var b bytes.Buffer
	u.table(&b, time.Now())
	_, err := a.stdout.Write(b.Bytes())
	return err
}

// Run removes.
func (c *cachePruneCmd) Run(a *app) error {
	return a.withCache(func(ctx context.Context, cache *runner.DirCache, store runner.SnapshotStore) error {
		return c.prune(ctx, a, cache, store)
	})
}

func (c *cachePruneCmd) prune(ctx context.Context, a *app, cache *runner.DirCache, store runner.SnapshotStore) (err error) {
	policy := runner.PrunePolicy{All: c.All, OlderThan: time.Duration(c.OlderThan), KeepSize: (*int64)(c.KeepSize)}
	var done *runner.Pruning
	verb := "Removed"
	if c.DryRun {
		verb = "Would remove"
		var inv *runner.Inventory
		if inv, err = runner.TakeInventory(ctx, cache, store); err == nil {
			done = policy.Decide(inv, time.Now())
		}
	} else {
		done, err = runner.Prune(ctx, cache, store, policy, time.Now(), func() {
			fmt.Fprintln(a.stderr, "zbuild: waiting for another prune to end")
		})
	}
	if done != nil {
		_, werr := fmt.Fprintf(a.stdout, "%s %s: %s.\n", verb,
			tally(len(done.Snapshots), len(done.Fetched), len(done.Mounts)), units.HumanSize(float64(done.Size())))
		err = errors.Join(err, werr)
	}
	return err
}

// tally says how many there are of what the cache keeps. Few projects download anything.
func tally(results, downloads, mounts int) string {
	text := render.Count(results, "cached step")
	if downloads > 0 {
		text += ", " + render.Count(downloads, "download")
	}
	return text + " and " + render.Count(mounts, "cache mount")
}

// cacheUsage is what 'cache du --format json' prints. Sizes are bytes on disk.
type cacheUsage struct {
	Steps []stepUsage `json:"steps"`
	// Unused are results that no step leads to: they go with the next prune.
	Unused []stepUsage  `json:"unused"`
	Mounts []mountUsage `json:"cacheMounts"`
	// Fetched is what is kept of URLs and git repositories.
	Fetched fetchedUsage `json:"fetched"`
	Size    int64        `json:"size"`
}

type fetchedUsage struct {
	Count    int        `json:"count"`
	Size     int64      `json:"size"`
	LastUsed *time.Time `json:"lastUsed,omitempty"`
}

type stepUsage struct {
	Key  string `json:"key,omitempty"`
	Step string `json:"step,omitempty"`
	// Snapshots are layers in the store.
	Snapshots []runner.Snapshot `json:"snapshots"`
	Size      int64             `json:"size"`
	Created   time.Time         `json:"created"`
	LastUsed  *time.Time        `json:"lastUsed,omitempty"`
	Gone      bool              `json:"gone,omitempty"`
	Busy      bool              `json:"busy,omitempty"`
}

type mountUsage struct {
	Name     string    `json:"name"`
	ID       string    `json:"id"`
	Size     int64     `json:"size"`
	LastUsed time.Time `json:"lastUsed"`
	InUse    bool      `json:"inUse,omitempty"`
}

// usageOf arranges an inventory for readers, the biggest first.
func usageOf(inv *runner.Inventory) cacheUsage {
	u := cacheUsage{Steps: []stepUsage{}, Unused: []stepUsage{}, Mounts: []mountUsage{}, Size: inv.Size()}
	sizes := make(map[runner.Snapshot]int64, len(inv.Snapshots))
	for _, s := range inv.Snapshots {
		sizes[s.ID] = s.Size
	}
	named := make(map[runner.Snapshot]bool)
	for _, e := range inv.Steps {
		if e.SameAs != "" {
			continue // another name for a result that is listed
		}
		row := stepUsage{
			Key: e.Key.String(), Step: e.Step, Snapshots: e.Snapshots, Created: e.Created, LastUsed: &e.LastUsed, Gone: e.Gone,
		}
		for _, s := range e.Snapshots {
			named[s] = true
			row.Size += sizes[s]
		}
		u.Steps = append(u.Steps, row)
	}
	for _, s := range inv.Snapshots {
		if !named[s.ID] {
			u.Unused = append(u.Unused, stepUsage{Snapshots: []runner.Snapshot{s.ID}, Size: s.Size, Created: s.Created, Busy: s.Busy})
		}
	}
	for _, m := range inv.Mounts {
		u.Mounts = append(u.Mounts, mountUsage{Name: m.Name, ID: strings.TrimPrefix(m.ID, "/"), Size: m.Size, LastUsed: m.LastUsed, InUse: m.InUse})
	}
	u.Fetched.Count = len(inv.Fetched)
	for i := range inv.Fetched {
		f := &inv.Fetched[i]
		u.Fetched.Size += f.Size
		if u.Fetched.LastUsed == nil || f.LastUsed.After(*u.Fetched.LastUsed) {
			u.Fetched.LastUsed = &f.LastUsed
		}
	}
	bigger := func(a, b stepUsage) int { return cmp.Compare(b.Size, a.Size) }
	slices.SortStableFunc(u.Steps, bigger)
	slices.SortStableFunc(u.Unused, bigger)
	slices.SortStableFunc(u.Mounts, func(a, b mountUsage) int { return cmp.Compare(b.Size, a.Size) })
	return u
}

// table is the usage for people.
func (u cacheUsage) table(b *bytes.Buffer, now time.Time) {
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	row := func(bytes int64, used time.Time, what string) {
		fmt.Fprintf(w, "%s\t%s\t%s\n", units.HumanSize(float64(bytes)), units.HumanDuration(max(0, now.Sub(used)))+" ago", what)
	}
	if len(u.Steps)+len(u.Unused)+len(u.Mounts)+u.Fetched.Count > 0 {
		fmt.Fprintln(w, "SIZE\tLAST USED\tWHAT")
	}
	for _, s := range u.Steps {
		what := render.Line(s.Step)
		if s.Gone {
			what += " (its result is gone)"
		}
		row(s.Size, *s.LastUsed, what)
	}
	for _, s := range u.Unused {
		what := "(a result that no step leads to)"
		if s.Busy {
			what = "(being made)"
		}
		row(s.Size, s.Created, what)
	}
	for _, m := range u.Mounts {
		row(m.Size, m.LastUsed, "cache mount "+render.Line(cmp.Or(m.ID, m.Name)))
	}
	if u.Fetched.Count > 0 {
		row(u.Fetched.Size, *u.Fetched.LastUsed, render.Count(u.Fetched.Count, "download")+" from URLs and git repositories")
	}
	w.Flush() //nolint:errcheck // a buffer never fails
	fmt.Fprintf(b, "Total: %s in %s.\n", units.HumanSize(float64(u.Size)), tally(len(u.Steps)+len(u.Unused), u.Fetched.Count, len(u.Mounts)))
}
