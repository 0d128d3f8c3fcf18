package main

import (
	"bufio"
	"io"
	"os"
	"sync"

	"github.com/muesli/cancelreader"
)

// keys listens to the keys of a terminal.
type keys struct {
	reader  cancelreader.CancelReader // nil without a terminal
	restore func()
	wg      sync.WaitGroup
}

// startKeys calls fn for every key that is pressed, until close. Without a
// terminal there are no keys.
func startKeys(stdin io.Reader, fn func(rune)) (*keys, error) {
	k := &keys{}
	f, ok := stdin.(*os.File)
	fd, isTerminal := terminal(stdin)
	if !ok || !isTerminal {
		return k, nil
	}
	restore, ok := singleKeys(fd)
	if !ok {
		return k, nil
	}
	reader, err := cancelreader.NewReader(f)
	if err != nil {
		restore()
		return nil, err
	}
	k.reader, k.restore = reader, restore
	k.wg.Go(func() {
		in := bufio.NewReader(reader)
		for {
			r, _, err := in.ReadRune()
			if err != nil {
				return
			}
			fn(r)
		}
	})
	return k, nil
}

func (k *keys) active() bool { return k.reader != nil }

// close gives the terminal back as it was.
func (k *keys) close() {
	if k.reader == nil {
		return
	}
	k.reader.Cancel()
	k.wg.Wait()
	_ = k.reader.Close()
	k.restore()
}
