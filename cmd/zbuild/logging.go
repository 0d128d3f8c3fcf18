package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/zbuild/zbuild/internal/event"
)

// logs is where log lines go: to standard error, or while progress is shown to
// the progress, which would be garbled otherwise.
type logs struct {
	debug bool
	w     io.Writer

	mu   sync.Mutex
	sink event.Sink
}

func newLogs(w io.Writer, debug bool) *logs { return &logs{w: w, debug: debug} }

// divert sends what is logged to a sink as warnings, or with nil to the writer again.
// The many lines of debugging always go to the writer.
func (l *logs) divert(sink event.Sink) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.debug {
		l.sink = sink
	}
}

// warn tells a person something.
func (l *logs) warn(text string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sink == nil {
		_, err := fmt.Fprintf(l.w, "zbuild: warning: %s\n", text)
		return err
	}
	l.sink.Emit(event.Warning{Text: text, Time: time.Now()})
	return nil
}

// sentences is a log that people read: "MESSAGE: ERROR (KEY VALUE, ...)".
type sentences struct {
	logs  *logs
	attrs []slog.Attr
}

// Enabled is for slog.
func (s sentences) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

// WithAttrs is for slog.
func (s sentences) WithAttrs(attrs []slog.Attr) slog.Handler {
	return sentences{s.logs, append(slices.Clone(s.attrs), attrs...)}
}

// WithGroup is for slog. Nothing here has groups.
func (s sentences) WithGroup(string) slog.Handler { return s }

// Handle is for slog.
func (s sentences) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	var about []string
	add := func(a slog.Attr) bool {
		switch {
		case a.Key == "error":
			text += ": " + a.Value.String()
		case a.Value.String() != "":
			about = append(about, a.Key+" "+a.Value.String())
		}
		return true
	}
	for _, a := range s.attrs {
		add(a)
	}
	r.Attrs(add)
	if len(about) > 0 {
		text += " (" + strings.Join(about, ", ") + ")"
	}
	return s.logs.warn(text)
}

// install makes everything in this process log here, in one voice: the standard
// library's log, and the libraries that use logrus.
func (l *logs) install() *slog.Logger {
	logger := slog.New(sentences{logs: l})
	if l.debug {
		logger = slog.New(slog.NewTextHandler(l.w, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	slog.SetDefault(logger)
	logrus.SetOutput(io.Discard)
	logrus.SetLevel(logrus.ErrorLevel)
	if l.debug {
		logrus.SetLevel(logrus.DebugLevel)
	}
	logrus.StandardLogger().ReplaceHooks(make(logrus.LevelHooks))
	logrus.AddHook(logrusHook{logger})
	return logger
}

// logrusHook hands on what libraries say through logrus. To them a warning is
// something for whoever looks for the cause of a problem, and so is most of what
// they call an error: if it matters it comes back as an error value too.
type logrusHook struct{ to *slog.Logger }

// Levels is for logrus.
func (logrusHook) Levels() []logrus.Level { return logrus.AllLevels }

// Fire is for logrus.
func (h logrusHook) Fire(e *logrus.Entry) error {
	attrs := make([]slog.Attr, 0, len(e.Data)+1)
	attrs = append(attrs, slog.String("from", "library"))
	for _, key := range slices.Sorted(maps.Keys(e.Data)) {
		attrs = append(attrs, slog.Any(key, e.Data[key]))
	}
	level := slog.LevelDebug
	if e.Level <= logrus.FatalLevel {
		level = slog.LevelError
	}
	h.to.LogAttrs(context.Background(), level, e.Message, attrs...)
	return nil
}
