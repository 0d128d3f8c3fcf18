package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"maps"
	"slices"
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

// divert sends log lines to a sink as warnings, or with nil to the writer again.
// The many lines of debugging always go to the writer.
func (l *logs) divert(sink event.Sink) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.debug {
		l.sink = sink
	}
}

// Write takes a log line.
func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sink == nil {
		return l.w.Write(p)
	}
	l.sink.Emit(event.Warning{Text: string(bytes.TrimSpace(p)), Time: time.Now()})
	return len(p), nil
}

// install makes everything in this process log here, in one voice: the standard
// library's log, and the libraries that use logrus.
func (l *logs) install() *slog.Logger {
	opt := &slog.HandlerOptions{Level: slog.LevelWarn}
	if l.debug {
		opt.Level = slog.LevelDebug
	} else {
		opt.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
	}
	logger := slog.New(slog.NewTextHandler(l, opt))
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
