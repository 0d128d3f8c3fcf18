package render

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"
	"golang.org/x/term"

	"github.com/zbuild/zbuild/internal/event"
)

// Mode is a way to show progress.
type Mode string

// The modes, as BuildKit's tools know them.
const (
	ModeAuto    Mode = "auto"    // tty on a terminal, else plain
	ModePlain   Mode = "plain"   // lines, as they come
	ModeTTY     Mode = "tty"     // a picture that is redrawn; needs a terminal
	ModeRawJSON Mode = "rawjson" // BuildKit's SolveStatus, a JSON object per line
	ModeQuiet   Mode = "quiet"   // nothing
	ModeNone    Mode = "none"    // nothing
)

// Modes are the names of all modes.
func Modes() []string {
	return []string{
		string(ModeAuto), string(ModeNone), string(ModePlain),
		string(ModeQuiet), string(ModeRawJSON), string(ModeTTY),
	}
}

// Progress shows the events that it receives. It is an event.Sink; Close ends it.
type Progress struct {
	mode Mode
	show func()        // feeds the display until Close; nil if nothing is shown
	wake chan struct{} // holds one token when there may be something to do
	done chan error    // holds what show ended with

	mu      sync.Mutex
	queue   []event.Event
	limit   *limiter
	started bool
	closed  bool
}

var _ event.Sink = (*Progress)(nil)

// NewProgress shows progress on w, from the first event on. Mode ModeTTY is an
// error if w is no terminal. The caller must Close it.
func NewProgress(w io.Writer, mode Mode, style Style) (*Progress, error) {
	mode, err := resolve(w, mode)
	if err != nil {
		return nil, err
	}
	p := &Progress{mode: mode, wake: make(chan struct{}, 1), done: make(chan error, 1)}
	if p.Silent() {
		return p, nil
	}
	out := newGate(w)
	display, err := progressui.NewDisplay(out, progressui.DisplayMode(mode))
	if err != nil {
		return nil, fmt.Errorf("progress: %w", err)
	}
	p.limit = newLimiter(mode)
	p.show = func() { p.done <- p.feed(display, out, newTranslator(style)) }
	return p, nil
}

// resolve makes tty or plain of auto.
func resolve(w io.Writer, mode Mode) (Mode, error) {
	f, ok := w.(interface{ Fd() uintptr })
	terminal := ok && term.IsTerminal(int(f.Fd()))
	switch mode {
	case ModeAuto, "":
		if terminal {
			return ModeTTY, nil
		}
		return ModePlain, nil
	case ModeTTY:
		if !terminal {
			return "", fmt.Errorf("progress %q needs a terminal; use %q", ModeTTY, ModePlain)
		}
		return mode, nil
	case ModePlain, ModeRawJSON, ModeQuiet, ModeNone:
		return mode, nil
	default:
		return "", fmt.Errorf("progress %q does not exist; there are %s", mode, strings.Join(Modes(), ", "))
	}
}

// Mode is the mode that was chosen; never ModeAuto.
func (p *Progress) Mode() Mode { return p.mode }

// Silent reports whether the mode shows nothing.
func (p *Progress) Silent() bool { return p.mode == ModeQuiet || p.mode == ModeNone }

// Emit notes an event. It never waits for the display.
func (p *Progress) Emit(e event.Event) {
	if p.Silent() {
		return
	}
	p.mu.Lock()
	if !p.closed {
		p.queue = p.limit.add(p.queue, e)
		if !p.started {
			p.started = true
			go p.show()
		}
	}
	p.mu.Unlock()
	p.poke()
}

// Close shows what is still to be shown and releases the terminal. Whatever was
// started and is not done is shown as canceled. It is safe to call again.
func (p *Progress) Close() error {
	p.mu.Lock()
	p.closed = true
	started := p.started
	p.mu.Unlock()
	if !started {
		return nil
	}
	p.poke()
	err := <-p.done
	p.done <- err
	return err
}

func (p *Progress) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// take takes what is queued.
func (p *Progress) take() (queue []event.Event, closed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	queue, p.queue = p.queue, nil
	p.limit.pending = 0
	return queue, p.closed
}

// feed feeds the display until Close.
func (p *Progress) feed(display progressui.Display, out gate, t *translator) error {
	statuses := make(chan *client.SolveStatus)
	shown := make(chan error, 1)
	go func() {
		// Not a context of the build: the end of a canceled one is shown too.
		_, err := display.UpdateFrom(context.Background(), statuses)
		shown <- err
	}()
	var last time.Time
	for range p.wake {
		queue, closed := p.take()
		ss := new(client.SolveStatus)
		for _, e := range queue {
			t.add(ss, e)
			if d, ok := e.(event.BuildDone); ok {
				last = d.Time
			}
		}
		if closed {
			if last.IsZero() {
				last = time.Now()
			}
			t.stop(ss, last)
		}
		if len(ss.Vertexes)+len(ss.Logs)+len(ss.Statuses) > 0 {
			statuses <- ss
		}
		if closed {
			break
		}
	}
	out.shut()
	close(statuses)
	return <-shown
}

// gate stands between a display and its writer. Once shut it keeps back the logs
// of failed steps, which the displays repeat when they end: the failure summary
// shows them, with their source.
type gate interface {
	io.Writer
	shut()
}

type plainGate struct {
	w    io.Writer
	shot atomic.Bool // the display is ending
	past bool        // and has begun to repeat the logs
}

// repeatMark is the line that the displays begin those logs with. Nothing else
// that they write is a line without a prefix.
var repeatMark = []byte("------\n")

func (g *plainGate) Write(p []byte) (int, error) {
	if g.shot.Load() && (g.past || bytes.Equal(p, repeatMark)) {
		g.past = true
		return len(p), nil
	}
	return g.w.Write(p)
}

func (g *plainGate) shut() { g.shot.Store(true) }

// file is what a display needs to take a writer for a terminal.
type file interface {
	io.ReadWriteCloser
	Fd() uintptr
	Name() string
}

type fileGate struct {
	file
	plainGate
}

func (g *fileGate) Write(p []byte) (int, error) { return g.plainGate.Write(p) }

func newGate(w io.Writer) gate {
	if f, ok := w.(file); ok {
		return &fileGate{file: f, plainGate: plainGate{w: w}}
	}
	return &plainGate{w: w}
}
