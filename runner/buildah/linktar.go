//go:build linux

package buildah

// One pass over the directory of a layer that links its files into another one and
// makes the tar of them, the very same that the store's driver would: for its digest
// and its tar-split. Files are looked at and read on all cores, and what they come
// to is put together in their order.

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	digest "github.com/opencontainers/go-digest"
	tarsplit "github.com/vbatts/tar-split/tar/storage"
	graphdriver "go.podman.io/storage/drivers"
	"go.podman.io/storage/pkg/archive"
	"golang.org/x/sync/errgroup"

	"github.com/zbuild/zbuild/internal/ctxio"
)

// linkTar links a tree and makes its tar.
type linkTar struct {
	ctx       context.Context
	src, dest string // without dest only the tar is made
	convert   archive.TarWhiteoutConverter
	skip      unchanged // has no place in either
	to        io.Writer // gets the tar; without it the tar is digested

	size  int64
	split tarsplit.Packer
	seen  map[uint64]string // the name that a file with several has in the tar

	uids, gids map[uint32]bool
	dirs       []madeDir

	buffers sync.Pool // of *bytes.Buffer
}

// madeDir is a directory that gets its attributes when all is in it.
type madeDir struct {
	path string
	stat *syscall.Stat_t
}

// path is where a file is. It is long, and seldom needed.
func (l *linkTar) path(name string) string { return filepath.Join(l.src, name) }

// run fills the tree, and out with what is known of it.
func (l *linkTar) run(split io.Writer, out *graphdriver.DriverWithDifferOutput) error {
	sum := digest.Canonical.Digester()
	if l.to == nil {
		l.to = sum.Hash()
	}
	l.seen = make(map[uint64]string)
	l.uids, l.gids = make(map[uint32]bool), make(map[uint32]bool)
	w := bufio.NewWriterSize(split, 256<<10)
	if l.dest != "" {
		l.split = tarsplit.NewJSONPacker(w)
	}

	cores := runtime.GOMAXPROCS(0)
	todo, order := make(chan *piece), make(chan *piece, 2*cores)
	g, ctx := errgroup.WithContext(l.ctx)
	g.Go(func() error {
		defer close(todo)
		defer close(order)
		return l.walk(ctx, todo, order)
	})
	for range cores {
		g.Go(func() error {
			m := pieceMaker{l: l, dirs: newDirPair(l.src, l.dest), fd: -1}
			defer m.end()
			for p := range todo {
				p.done <- m.make(ctx, p)
			}
			return nil
		})
	}
	g.Go(func() error { return l.collect(ctx, order) })
	if err := g.Wait(); err != nil {
		return err
	}
	var end bytes.Buffer
	if err := tar.NewWriter(&end).Close(); err != nil {
		return err
	}
	if err := errors.Join(l.segment(end.Bytes()), w.Flush(), finishDirs(l.dirs)); err != nil {
		return err
	}
	out.UncompressedDigest, out.Size = sum.Digest(), l.size
	out.UIDs, out.GIDs = slices.Sorted(maps.Keys(l.uids)), slices.Sorted(maps.Keys(l.gids))
	return nil
}

// collect puts together what becomes of the pieces.
func (l *linkTar) collect(ctx context.Context, order <-chan *piece) error {
	for p := range order {
		select {
		case err := <-p.done:
			if err == nil {
				err = l.append(p)
			}
			if err != nil {
				return err
			}
			l.buffers.Put(p.tar)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// walk hands out the files in the order of the tar, and makes the directories.
func (l *linkTar) walk(ctx context.Context, todo, order chan<- *piece) error {
	p := newPiece()
	send := func() error {
		for _, c := range []chan<- *piece{order, todo} {
			select {
			case c <- p:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		p = newPiece()
		return nil
	}
	err := filepath.WalkDir(l.src, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(strings.TrimPrefix(path, l.src), "/")
		switch {
		case l.skip[name] && d.IsDir():
			return fs.SkipDir
		case l.skip[name]:
			return nil
		case name != "" && d.IsDir() && l.dest != "":
			if err := os.Mkdir(filepath.Join(l.dest, name), 0o700); err != nil {
				return err
			}
		}
		// Names are kept to the end, and the path of a store is several times as long.
		p.names, p.dirs = append(p.names, strings.Clone(name)), append(p.dirs, d.IsDir())
		if len(p.names) < pieceFiles {
			return nil
		}
		return send()
	})
	if err != nil {
		return err
	}
	return send()
}

// append adds a piece to what there is.
func (l *linkTar) append(p *piece) error {
	raw := p.tar.Bytes()
	for i, name := range p.names {
		f := &p.files[i]
		st, ok := f.info.Sys().(*syscall.Stat_t)
		if !ok {
			return fmt.Errorf("no owner is known of %s", name)
		}
		l.uids[st.Uid], l.gids[st.Gid] = true, true
		if f.info.IsDir() && l.dest != "" {
			l.dirs = append(l.dirs, madeDir{filepath.Join(l.dest, name), st})
		}
		if f.head == nil {
			continue
		}
		start := 0
		if i > 0 {
			start = p.files[i-1].next
		}
		header := raw[start:f.header]
		first, again := l.seen[st.Ino]
		again = again && !f.info.IsDir() && st.Nlink > 1
		if device := f.info.Mode()&fs.ModeCharDevice != 0; again || device {
			if again {
				f.head.Typeflag, f.head.Linkname, f.head.Size = tar.TypeLink, first, 0
			}
			var err error
			if f.extra, err = l.convert.ConvertWrite(f.head, l.path(name), f.info); err != nil {
				return err
			}
			if header, err = encode(f.head); err != nil {
				return err
			}
		}
		if err := l.file(p, f, header, name); err != nil {
			return err
		}
		if !again && !f.info.IsDir() && st.Nlink > 1 {
			l.seen[st.Ino] = f.head.Name
		}
		if f.extra != nil {
			header, err := encode(f.extra)
			if err != nil {
				return err
			}
			if err := errors.Join(l.segment(header), l.entry(f.extra, nil)); err != nil {
				return err
			}
		}
	}
	return nil
}

// encode gives the blocks of a header.
func encode(h *tar.Header) ([]byte, error) {
	var buf bytes.Buffer
	err := tar.NewWriter(&buf).WriteHeader(h)
	return buf.Bytes(), err
}

// file adds a file's header and content.
func (l *linkTar) file(p *piece, f *pieceFile, header []byte, name string) error {
	if err := l.segment(header); err != nil {
		return err
	}
	if f.head.Size == 0 || f.head.Typeflag != tar.TypeReg {
		return l.entry(f.head, nil)
	}
	crc := crc64.New(tarsplit.CRCTable)
	if f.body < 0 {
		path := l.path(name)
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer in.Close()
		n, err := io.Copy(io.MultiWriter(l, crc), ctxio.NewReader(l.ctx, in))
		if err != nil {
			return err
		}
		if n != f.head.Size {
			return &fs.PathError{Op: "read", Path: path, Err: io.ErrUnexpectedEOF}
		}
		if err := l.entry(f.head, crc.Sum(nil)); err != nil {
			return err
		}
		const block = 512
		return l.segment(make([]byte, (block-n%block)%block))
	}
	raw := p.tar.Bytes()
	if _, err := l.Write(raw[f.header:f.body]); err != nil {
		return err
	}
	if err := l.entry(f.head, binary.BigEndian.AppendUint64(nil, f.crc)); err != nil {
		return err
	}
	return l.segment(raw[f.body:f.next])
}

// Write adds bytes to the tar. It is for io.Writer.
func (l *linkTar) Write(b []byte) (int, error) {
	n, err := l.to.Write(b)
	l.size += int64(n)
	return n, err
}

// segment adds bytes that are no file's content.
func (l *linkTar) segment(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if _, err := l.Write(b); err != nil || l.split == nil {
		return err
	}
	_, err := l.split.AddEntry(tarsplit.Entry{Type: tarsplit.SegmentType, Payload: b})
	return err
}

// entry adds a file, with the checksum of its content.
func (l *linkTar) entry(h *tar.Header, sum []byte) error {
	if l.split == nil {
		return nil
	}
	e := tarsplit.Entry{Type: tarsplit.FileType, Payload: sum}
	if sum != nil {
		e.Size = h.Size
	}
	e.SetName(h.Name)
	_, err := l.split.AddEntry(e)
	return err
}
