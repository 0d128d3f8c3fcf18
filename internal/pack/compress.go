package pack

// A layer's compressed form lies in a file without a name while somebody needs
// it: a process that is killed leaves nothing. What is kept is a note of digest
// and size, so that what a registry has already is not compressed again.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/zbuild/zbuild/internal/ctxio"
	"github.com/zbuild/zbuild/internal/sealed"
)

// The compressions of layers.
const (
	Gzip         = "gzip"
	Zstd         = "zstd"
	Estargz      = "estargz"
	Uncompressed = "uncompressed"
)

// How says how layers are compressed.
type How struct {
	Compression string // empty means Gzip
	Level       int    // -1 for the compression's own default
	// Keep leaves layers that came from elsewhere in the form that they came in.
	Keep bool
}

// TempPrefix begins the names of files that are about to lose them.
const TempPrefix = "blob-"

// notesFormat is part of the notes' names: a compressor that gives other bytes
// must not find them.
const notesFormat = "2"

// Compressor compresses layers, each once.
type Compressor struct {
	dir   string
	notes string

	mu    sync.Mutex
	known map[string]*compressed
}

// NewCompressor makes a compressor that has its files in dir and its notes in
// notes; neither need exist. The caller must Close it when the blobs it made are
// not needed any more.
func NewCompressor(dir, notes string) *Compressor {
	return &Compressor{dir: dir, notes: notes, known: make(map[string]*compressed)}
}

// Close gives up the files.
func (c *Compressor) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, z := range c.known {
		z.mu.Lock()
		if z.file != nil {
			errs = append(errs, z.file.Close())
			z.file = nil
		}
		z.mu.Unlock()
	}
	clear(c.known)
	return errors.Join(errs...)
}

// Blob gives a layer's compressed form.
func (c *Compressor) Blob(ctx context.Context, l Layer, how How) (Blob, error) {
	if l.Origin != nil && how.Keep {
		return Blob{Descriptor: l.Origin.Descriptor, stream: l.Origin.Open}, nil
	}
	how.Keep = false
	if how.Compression == "" {
		how.Compression = Gzip
	}
	name := fmt.Sprintf("%s.%s%d.%s", l.DiffID.Encoded(), how.Compression, how.Level, notesFormat)
	c.mu.Lock()
	z := c.known[name]
	if z == nil {
		z = &compressed{c: c, name: name, layer: l, how: how}
		c.known[name] = z
	}
	c.mu.Unlock()
	return z.blob(ctx)
}

// compressed is one layer in one compression.
type compressed struct {
	c     *Compressor
	name  string
	layer Layer
	how   How

	mu   sync.Mutex
	desc ocispecs.Descriptor // without a digest until it is known
	// diffID is the digest of the tar in it, if that is not the layer's.
	diffID digest.Digest
	file   *os.File
}

type note struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
	// TOC is the digest of an eStargz layer's table of contents, DiffID and Unpacked are
	// digest and size of its tar.
	TOC      digest.Digest `json:"toc,omitempty"`
	DiffID   digest.Digest `json:"diffID,omitempty"`
	Unpacked int64         `json:"unpacked,omitempty"`
}

func (n note) valid(compression string) bool {
	if n.Digest.Validate() != nil || n.Size <= 0 {
		return false
	}
	return compression != Estargz || n.TOC.Validate() == nil && n.DiffID.Validate() == nil
}

// blob gives the layer in its compression, which is made if nothing is known of it.
func (z *compressed) blob(ctx context.Context) (Blob, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.desc.Digest == "" {
		if err := z.describe(ctx); err != nil {
			return Blob{}, err
		}
	}
	return Blob{Descriptor: z.desc, diffID: z.diffID, open: z.open}, nil
}

func (z *compressed) describe(ctx context.Context) error {
	if z.how.Compression == Uncompressed {
		z.desc = ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayer, Digest: z.layer.DiffID, Size: z.layer.Size}
		return nil
	}
	var n note
	if _, err := sealed.Read(filepath.Join(z.c.notes, z.name), &n); err == nil && n.valid(z.how.Compression) {
		z.desc, z.diffID = z.descriptor(n), n.DiffID
		return nil
	}
	return z.make(ctx)
}

func (z *compressed) descriptor(n note) ocispecs.Descriptor {
	d := ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayerGzip, Digest: n.Digest, Size: n.Size, Annotations: n.annotations()}
	if z.how.Compression == Zstd {
		d.MediaType = ocispecs.MediaTypeImageLayerZstd
	}
	return d
}

// open gives the bytes.
func (z *compressed) open(ctx context.Context) (content.ReaderAt, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.file == nil {
		if err := z.make(ctx); err != nil {
			return nil, err
		}
	}
	return section{io.NewSectionReader(z.file, 0, z.desc.Size)}, nil
}

type section struct{ *io.SectionReader }

// Close does nothing: the file is the compressor's.
func (section) Close() error { return nil }

// make writes the file.
func (z *compressed) make(ctx context.Context) (err error) {
	if err := os.MkdirAll(z.c.dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(z.c.dir, TempPrefix)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := os.Remove(f.Name()); err != nil {
		return err
	}
	n, err := z.write(ctx, f)
	if err != nil {
		return fmt.Errorf("compressing layer %s: %w", z.layer.DiffID, err)
	}
	if z.desc.Digest != "" && z.desc.Digest != n.Digest {
		_ = os.Remove(filepath.Join(z.c.notes, z.name))
		return fmt.Errorf("compressing layer %s: the result is %s and was %s before; try again", z.layer.DiffID, n.Digest, z.desc.Digest)
	}
	z.file = f
	if z.how.Compression != Uncompressed {
		z.desc, z.diffID = z.descriptor(n), n.DiffID
		z.keep(n)
	}
	return nil
}

// keep notes what came out. Without the note it is made again some day.
func (z *compressed) keep(n note) {
	_ = sealed.Write(filepath.Join(z.c.notes, z.name), n)
}

// write compresses the layer into a file and makes sure that it is the layer.
func (z *compressed) write(ctx context.Context, f *os.File) (n note, err error) {
	in, err := z.layer.Open(ctx)
	if err != nil {
		return note{}, err
	}
	defer in.Close()
	out := &counter{w: f, sum: digest.Canonical.Digester()}
	sum := digest.Canonical.Digester()
	tar := io.TeeReader(ctxio.NewReader(ctx, in), sum.Hash())
	if z.how.Compression == Estargz {
		n.TOC, err = stargz(out, tar, z.how.Level)
	} else {
		err = z.how.compress(out, tar)
	}
	if err != nil {
		return note{}, err
	}
	if sum.Digest() != z.layer.DiffID {
		return note{}, errChanged
	}
	n.Digest, n.Size = out.sum.Digest(), out.n
	if z.how.Compression == Estargz {
		n.DiffID, n.Unpacked, err = measure(ctxio.NewReader(ctx, io.NewSectionReader(f, 0, n.Size)))
	}
	return n, err
}

// compress compresses what is read into w.
func (h How) compress(w io.Writer, r io.Reader) error {
	packer, err := h.writer(w)
	if err != nil {
		return err
	}
	_, err = io.Copy(packer, r)
	return errors.Join(err, packer.Close())
}

// writer compresses what is written to it into w.
func (h How) writer(w io.Writer) (io.WriteCloser, error) {
	switch h.Compression {
	case Uncompressed:
		return nopCloser{w}, nil
	case Zstd:
		level := zstd.SpeedDefault
		if h.Level >= 0 {
			level = zstd.EncoderLevelFromZstd(h.Level)
		}
		return zstd.NewWriter(w, zstd.WithEncoderLevel(level))
	case Gzip:
		return pgzip.NewWriterLevel(w, h.Level)
	}
	return nil, fmt.Errorf("there is no compression %q", h.Compression)
}

type nopCloser struct{ io.Writer }

// Close does nothing.
func (nopCloser) Close() error { return nil }

// counter digests and counts what goes through.
type counter struct {
	w   io.Writer
	sum digest.Digester
	n   int64
}

// Write is for io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.sum.Hash().Write(p[:n])
	c.n += int64(n)
	return n, err
}
