package session

import (
	"time"

	"github.com/zbuild/zbuild/internal/watch"
)

// Notice is one of the types of this file: what happens while a project is
// watched. Paths are relative to the working directory, with slashes, where they
// lie in it.
type Notice interface{ notice() }

// Started says that targets are about to be built.
type Started struct {
	Number int
	// First is the generation with which watching begins; Rebuild and Retry are what
	// the user asked for; Rescan says that changes were lost, and all was looked at.
	First, Rebuild, Retry, Rescan bool
	// Changed are the files that triggered it.
	Changed []string
	// Affected are the targets that are built, Unaffected the others that were
	// requested; both in the order of their names.
	Affected, Unaffected []string
	// Concerns are, by target, those of Changed that the target is made of.
	Concerns map[string][]string
	Time     time.Time
}

// Finished says how that ended.
type Finished struct {
	Started Started
	// Generation has the plan of the affected targets, and what became of them.
	Generation *Generation
	// Canceled says that it was stopped, by the user or for a newer change.
	Canceled bool
	Duration time.Duration
}

// Unchanged says that what has changed makes no difference to any target.
type Unchanged struct {
	Started  Started // without affected targets
	Duration time.Duration
}

// Synced says that changed files were copied into containers, and no image built.
type Synced struct {
	Target string
	Files  []string
	Time   time.Time
}

// Broken says that the project cannot be loaded or planned. What can be read of it
// stays watched.
type Broken struct {
	// Generation has the Diagnostics.
	Generation *Generation
	// Err is set if it is no matter of diagnostics.
	Err     error
	Changed []string
	// LastGood says that there is a plan from before, which goes on being watched.
	LastGood bool
	Time     time.Time
}

// Waiting says that there is nothing to be done until something changes.
type Waiting struct {
	Targets, Directories    int
	Polling, Paused, Broken bool
	Failed                  []string // targets whose last build failed
	Time                    time.Time
}

// Degraded says that files are polled, and why.
type Degraded watch.Degradation

func (Started) notice()   {}
func (Finished) notice()  {}
func (Unchanged) notice() {}
func (Synced) notice()    {}
func (Broken) notice()    {}
func (Waiting) notice()   {}
func (Degraded) notice()  {}
