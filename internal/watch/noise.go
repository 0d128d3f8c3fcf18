package watch

import "time"

const (
	// restTime is how long nobody listens to noise. An edit among it is noticed that
	// much later.
	restTime = 20 * time.Millisecond
	// noiseRun is how many changes in a row that concern nobody are noise, and
	// noiseGap how far apart they may be.
	noiseRun = 20
	noiseGap = 100 * time.Millisecond
	// emptyGap is how long nothing came if there was nothing more to be read.
	emptyGap = 200 * time.Microsecond
)

// noise recognizes changes that concern nobody and come all the time: a log that is
// written beside the project, or in it. To wake up for each of them costs far more
// than to look at it. If nobody listens for a moment, the system makes one of those
// that are the same, and the others are read at once. It has no clock of its own.
type noise struct {
	run  int
	last time.Time // when there was time to listen
}

// heard takes in a change that came at one time and was done with at another;
// concern says that it concerned somebody. It reports whether to rest: not as long as
// there is more to be read, or the system would run out of room for it.
func (n *noise) heard(concern bool, came, done time.Time) bool {
	gap := came.Sub(n.last)
	n.last = done
	if concern || gap > noiseGap {
		n.run = 0
		return false
	}
	n.run++
	return n.run > noiseRun && gap > emptyGap
}

// rested says that there is time to listen again.
func (n *noise) rested(now time.Time) { n.last = now }
