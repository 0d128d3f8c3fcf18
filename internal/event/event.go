// Package event holds the facts of a build's progress, as they happen. They are
// inert: whoever makes them does not know who shows them. It never formats.
package event

import (
	"time"

	"github.com/zbuild/zbuild/planner"
)

// Sink receives events. Emit may be called from several goroutines at once, and
// must not hold its caller up for longer than it takes to note the event.
type Sink interface {
	Emit(Event)
}

// Event is one of the types of this package.
type Event interface{ event() }

// BuildStarted says what is about to run.
type BuildStarted struct {
	ID   string // unique to this build
	Plan *planner.Plan
	Time time.Time
}

// StepStarted says that a step left the queue. A step that is found in the cache
// is started and done at once.
type StepStarted struct {
	Step *planner.Step
	Time time.Time
}

// StepOutput is what a process wrote: some bytes, not always whole lines.
type StepOutput struct {
	Step   *planner.Step
	Stream int // 1 is standard output, 2 standard error
	Data   []byte
	Time   time.Time
}

// StepRetry says that a step failed and is tried again.
type StepRetry struct {
	Step    *planner.Step
	Attempt int // number of the try that comes now; the first retry is 2
	Of      int // tries in all
	Delay   time.Duration
	Err     error
	Time    time.Time
}

// StepDone says how a step ended.
type StepDone struct {
	Step     *planner.Step
	Cached   bool
	Canceled bool // stopped because of another step's failure, or the user
	Err      error
	Time     time.Time
}

// TaskStarted and TaskDone bracket work that is no step: reading the project,
// resolving a base image, exporting, tagging, pushing.
type TaskStarted struct {
	ID   string // unique within the build
	Name string // "exporting api to containers-storage"
	Time time.Time
}

// TaskDone ends the task with the same ID.
type TaskDone struct {
	ID  string
	Err error
	// Notes are lines about the result: "localhost/api:dev  sha256:…  3 layers, 12.3 MB".
	Notes []string
	Time  time.Time
}

// Warning is something that the user should know and that fails nothing.
type Warning struct {
	Step *planner.Step // nil if it concerns none
	Text string
	Time time.Time
}

// BuildDone ends the build.
type BuildDone struct {
	ID   string
	Err  error
	Time time.Time
}

func (BuildStarted) event() {}
func (StepStarted) event()  {}
func (StepOutput) event()   {}
func (StepRetry) event()    {}
func (StepDone) event()     {}
func (TaskStarted) event()  {}
func (TaskDone) event()     {}
func (Warning) event()      {}
func (BuildDone) event()    {}
