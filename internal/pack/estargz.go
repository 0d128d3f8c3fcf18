package pack

// An eStargz layer is a gzip-compressed tar whose files can be read by themselves: each
// begins a gzip member, and a table of contents is the last file. That file is part of
// the tar, so the layer is another one than it was, with another digest.

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/containerd/stargz-snapshotter/estargz"
	digest "github.com/opencontainers/go-digest"
)

// stargz writes a tar to w as an eStargz layer, and gives the digest of its table of
// contents.
func stargz(w io.Writer, tar io.Reader, level int) (toc digest.Digest, err error) {
	z := estargz.NewWriterLevel(w, level)
	if err := z.AppendTarLossLess(tar); err != nil {
		return "", err
	}
	return z.Close()
}

// measure reads a gzip-compressed layer and gives the digest and size of its tar.
func measure(in io.Reader) (digest.Digest, int64, error) {
	z, err := gzip.NewReader(bufio.NewReader(in))
	if err != nil {
		return "", 0, err
	}
	sum := digest.Canonical.Digester()
	n, err := io.Copy(sum.Hash(), z)
	return sum.Digest(), n, errors.Join(err, z.Close())
}

// annotations are those of the layer's descriptor, by which a lazy snapshotter knows it.
func (n note) annotations() map[string]string {
	if n.TOC == "" {
		return nil
	}
	return map[string]string{
		estargz.TOCJSONDigestAnnotation:         n.TOC.String(),
		estargz.StoreUncompressedSizeAnnotation: strconv.FormatInt(n.Unpacked, 10),
	}
}

// withDiffIDs is an image's configuration whose layers have other digests than they had.
// One that stays as it was is empty.
func withDiffIDs(config []byte, diffIDs []digest.Digest) ([]byte, error) {
	fields := make(map[string]json.RawMessage)
	if err := json.Unmarshal(config, &fields); err != nil {
		return nil, err
	}
	var rootfs struct {
		Type    string          `json:"type"`
		DiffIDs []digest.Digest `json:"diff_ids"`
	}
	if err := json.Unmarshal(fields["rootfs"], &rootfs); err != nil {
		return nil, err
	}
	if len(rootfs.DiffIDs) != len(diffIDs) {
		return nil, fmt.Errorf("a configuration of %d layers has %d", len(rootfs.DiffIDs), len(diffIDs))
	}
	for i, d := range diffIDs {
		if d != "" {
			rootfs.DiffIDs[i] = d
		}
	}
	var err error
	if fields["rootfs"], err = json.Marshal(rootfs); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}
