package config

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"

	"github.com/zbuild/zbuild/internal/beneath"
)

// Pipes are what was read of pipes and devices. That can be done only once, and so
// requests that load the same project again share them. The zero value is ready.
type Pipes struct {
	mu    sync.Mutex
	texts map[string][]byte
}

// read reads a pipe to its end, or gives what it had when it was read. Whoever writes
// to it may take as long as they like, but not longer than the context. To open a pipe
// that nobody writes to cannot be interrupted: what does so then ends with the process.
func (p *Pipes) read(ctx context.Context, path string) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if text, ok := p.texts[path]; ok {
		return text, nil
	}
	type result struct {
		text []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := readAll(path)
		done <- result{text, err}
	}()
	select {
	case r := <-done:
		if r.err == nil {
			if p.texts == nil {
				p.texts = map[string][]byte{}
			}
			p.texts[path] = r.text
		}
		return r.text, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// readAll reads whatever that is, up to the limit of a file.
func readAll(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err == nil && len(text) > maxFileSize {
		err = errTooLarge
	}
	return text, err
}

// readGiven reads a file that the command line names. That may be a pipe, such as a
// shell's <(command), which is no file to be watched.
func (l *loader) readGiven(ctx context.Context, path string) ([]byte, error) {
	text, err := l.readFile()(path)
	if errors.Is(err, beneath.ErrNotRegular) && l.req.Pipes != nil {
		return l.req.Pipes.read(ctx, path)
	}
	l.project.Files = append(l.project.Files, path)
	if err == nil && len(text) > maxFileSize {
		err = errTooLarge
	}
	return text, err
}
