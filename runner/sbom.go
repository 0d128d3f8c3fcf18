package runner

// An SBOM is a directory of in-toto statements that a step has left: one about the
// image, called sbom, and one for each thing that was looked at besides. They are
// attached as BuildKit attaches them: see its docs/attestations/sbom-protocol.md.

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/in-toto/in-toto-golang/in_toto"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"

	"github.com/zbuild/zbuild/internal/pack"
)

const (
	// coreSBOM begins the name of the statement that is about the image itself.
	coreSBOM = "sbom"
	// maxStatement is how many bytes one may have, as with BuildKit.
	maxStatement = 80 << 20
)

// found is one statement of a generator.
type found struct {
	name    string // of its file
	subject []subject
	content json.RawMessage // the predicate
}

// core reports whether it is about the image itself.
func (f *found) core() bool {
	name, _, _ := strings.Cut(f.name, ".")
	return name == coreSBOM
}

// sboms reads what the generator has left about a result, the core first.
func (r *run) sboms(ctx context.Context, x *export) ([]found, error) {
	in := x.result.SBOM
	if in.Step == nil {
		return nil, nil
	}
	dir, done, err := r.opt.Engine.View(ctx, r.nodes[in.Step].entry.Snapshots[in.Index])
	if err != nil {
		return nil, err
	}
	defer done()
	root, err := os.OpenRoot(dir) // links lead nowhere else
	if err != nil {
		return nil, err
	}
	defer root.Close() //nolint:errcheck // a directory, only open
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, err
	}
	var out []found
	for _, e := range entries {
		f, err := readStatement(root, e.Name())
		if err != nil {
			var pe *fs.PathError
			if errors.As(err, &pe) {
				err = pe.Err // the place of the mount says nothing
			}
			return nil, fmt.Errorf("the SBOM's generator left %s: %w", e.Name(), err)
		}
		out = append(out, *f)
	}
	slices.SortStableFunc(out, func(a, b found) int {
		switch {
		case a.core() == b.core():
			return 0
		case a.core():
			return -1
		}
		return 1
	})
	return out, nil
}

func readStatement(root *os.Root, name string) (*found, error) {
	info, err := root.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is no file")
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxStatement+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxStatement {
		return nil, fmt.Errorf("it has more than %d bytes", maxStatement)
	}
	var s struct {
		PredicateType string    `json:"predicateType"`
		Subject       []subject `json:"subject"`
		Predicate     any       `json:"predicate"`
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("it is no in-toto statement: %w", err)
	}
	if s.PredicateType != in_toto.PredicateSPDX {
		return nil, fmt.Errorf("it is a statement of type %q, and %s is wanted", s.PredicateType, in_toto.PredicateSPDX)
	}
	content, err := json.Marshal(s.Predicate)
	return &found{name: name, subject: s.Subject, content: content}, err
}

// statement is what is said about subjects, or about those that it names itself.
func (f *found) statement(subjects []subject) (pack.Statement, error) {
	if len(f.subject) > 0 {
		subjects = slices.Clone(f.subject)
		for i := range subjects {
			if subjects[i].Name == "" {
				subjects[i].Name = "_"
			}
		}
	}
	return newStatement(f.name, in_toto.PredicateSPDX, subjects, f.content)
}

// supplement adds to the SBOM of an image which layer each file is in, and that
// zbuild has done so. What is no SPDX document stays as it is.
func (r *run) supplement(ctx context.Context, f *found, layers []ocispecs.Descriptor, img *pack.Image) error {
	doc, err := spdxjson.Read(bytes.NewReader(f.content))
	if err != nil || doc == nil {
		return nil //nolint:nilerr // see above
	}
	files := uncommented(doc)
	if err := locate(ctx, files, layers, img); err != nil {
		return err
	}
	if doc.CreationInfo == nil {
		doc.CreationInfo = &spdx.CreationInfo{}
	}
	doc.CreationInfo.Creators = append(doc.CreationInfo.Creators, spdx.Creator{CreatorType: "Tool", Creator: "zbuild-" + r.opt.Version})
	var b bytes.Buffer
	if err := spdxjson.Write(doc, &b); err != nil {
		return err
	}
	f.content = bytes.TrimSpace(b.Bytes())
	return nil
}

// uncommented are a document's files that nothing is said of yet, by their path in
// the image.
func uncommented(doc *spdx.Document) map[string][]*spdx.File {
	out := make(map[string][]*spdx.File)
	add := func(files []*spdx.File) {
		for _, f := range files {
			if f != nil && f.FileComment == "" {
				name := path.Join("/", f.FileName)
				out[name] = append(out[name], f)
			}
		}
	}
	add(doc.Files)
	for _, p := range doc.Packages {
		if p != nil {
			add(p.Files)
		}
	}
	return out
}

// locate says of files which layer they are in, and forgets those that it found. A
// file is in the uppermost layer that has it.
func locate(ctx context.Context, files map[string][]*spdx.File, layers []ocispecs.Descriptor, img *pack.Image) error {
	for i := len(img.Layers) - 1; i >= 0 && len(files) > 0; i-- {
		err := names(ctx, img.Layers[i], func(name string) {
			for _, f := range files[name] {
				f.FileComment = "layerID: " + layers[i].Digest.String()
			}
			delete(files, name)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// names calls fn with the path of everything that a layer has.
func names(ctx context.Context, l pack.Layer, fn func(string)) error {
	in, err := l.Open(ctx)
	if err != nil {
		return err
	}
	defer in.Close()
	archive := tar.NewReader(in)
	for {
		h, err := archive.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case strings.HasPrefix(path.Base(h.Name), ".wh."):
		default:
			fn(path.Join("/", h.Name))
		}
	}
}
