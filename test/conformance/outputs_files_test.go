package conformance_test

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fileOutputCases are outputs that go to files: archives, layouts and trees.
func fileOutputCases() map[string]outputCase {
	out := func(attrs string) string { return fmt.Sprintf("output = [%q]\n", "dest=out,"+attrs) }
	const (
		both     = "platforms = [\"linux/amd64\", \"linux/arm64\"]\ndockerfile = \"scratch.Dockerfile\"\n"
		nothing  = "dockerfile-inline = \"FROM scratch\\nENV A=b\\n\"\n"
		multi    = "args = { BUILDKIT_MULTI_PLATFORM = \"1\" }\n"
		attested = "attest = [\"type=provenance,mode=min\"]\n"
	)
	// What a tree can have, and few files: the whole of busybox makes no readable
	// differences.
	tree := func(attrs string) string { return "dockerfile = \"tree.Dockerfile\"\n" + out(attrs) }
	epoch := []string{"SOURCE_DATE_EPOCH=1500000000"}
	return map[string]outputCase{
		"archive":                {target: out("type=oci"), leaves: archived},
		"archive of two":         {target: both + out("type=oci") + `annotations = ["index:d=4", "index-descriptor:e=5"]`, leaves: archived},
		"archive docker types":   {target: out("type=oci,oci-mediatypes=false"), leaves: archived},
		"archive for docker":     {target: out("type=docker"), leaves: archived},
		"archive for docker oci": {target: out("type=docker,oci-mediatypes=true,compression=zstd,force-compression=true"), leaves: archived},
		"archive estargz":        {target: out("type=oci,compression=estargz,force-compression=true"), leaves: archived},
		"archive docker estargz": {target: out("type=docker,compression=estargz,force-compression=true"), leaves: archived},
		"archive list of one":    {target: multi + out("type=oci"), leaves: archived},
		"archive docker list":    {target: multi + out("type=docker"), fails: true},
		"local list of one":      {target: multi + tree("type=local"), leaves: files},
		"local list attested":    {target: multi + tree("type=local,platform-split=false") + attested, leaves: files},
		"tar list of one":        {target: multi + tree("type=tar"), leaves: tarred},
		"archive attested":       {target: out("type=oci") + attested, leaves: archived},
		"archive named":          {target: out(`type=oci,name=org/repo:tag1`), leaves: archived},
		"archive epoch":          {target: out("type=oci,rewrite-timestamp=true"), env: epoch, leaves: archived},

		"layout":          {target: out("type=oci,tar=false"), leaves: layout},
		"layout of two":   {target: both + out("type=oci,tar=false"), leaves: layout},
		"layout attested": {target: out("type=oci,tar=false") + attested, leaves: layout},
		"layout zstd":     {target: out("type=oci,tar=false,compression=zstd,force-compression=true"), leaves: layout},

		"tar":                 {target: tree("type=tar"), leaves: tarred},
		"tar of two":          {target: both + out("type=tar"), leaves: tarred},
		"tar split":           {target: tree("type=tar,platform-split=true"), leaves: tarred},
		"tar of two as one":   {target: "dockerfile = \"per.Dockerfile\"\n" + strings.Split(both, "\n")[0] + "\n" + out("type=tar,platform-split=false"), leaves: tarred},
		"tar attested":        {target: tree("type=tar") + attested, leaves: tarred},
		"tar of two attested": {target: both + out("type=tar") + attested, leaves: tarred},
		"tar epoch":           {target: tree("type=tar"), env: epoch, leaves: tarred},

		"local":                   {target: tree("type=local"), leaves: files},
		"local of two":            {target: both + out("type=local"), leaves: files},
		"local split":             {target: tree("type=local,platform-split=true"), leaves: files},
		"local of two as one":     {target: "dockerfile = \"per.Dockerfile\"\n" + strings.Split(both, "\n")[0] + "\n" + out("type=local,platform-split=false"), leaves: files},
		"local of two clashing":   {target: both + out("type=local,platform-split=false"), fails: true},
		"local attested":          {target: tree("type=local") + attested, leaves: files},
		"local of two attested":   {target: both + out("type=local") + attested, leaves: files},
		"local attested prefix":   {target: tree("type=local,attestation-prefix=a-") + attested, leaves: files},
		"local epoch":             {target: tree("type=local"), env: epoch, leaves: files},
		"local of nothing":        {target: nothing + out("type=local"), leaves: files},
		"local source":            {target: tree("type=local,src=/t/private"), leaves: files},
		"local source relative":   {target: tree("type=local,src=t/../t"), leaves: files},
		"local source link":       {target: tree("type=local,src=/to-t/private"), leaves: files},
		"local source root":       {target: tree("type=local,src=/"), leaves: files},
		"local source missing":    {target: tree("type=local,src=/nope"), fails: true},
		"local source empty":      {target: tree("type=local,src="), fails: true},
		"local source of two":     {target: both + out("type=local,src=/d"), leaves: files},
		"local source attested":   {target: tree("type=local,src=/t/private") + attested, leaves: files},
		"local source epoch":      {target: tree("type=local,src=/t"), env: epoch, leaves: files},
		"tar source":              {target: tree("type=tar,src=/t"), leaves: tarred},
		"tar source missing":      {target: tree("type=tar,src=/nope"), fails: true},
		"local over files":        {target: tree("type=local"), stale: true, leaves: files},
		"local over files copy":   {target: tree("type=local,mode=copy"), stale: true, leaves: files},
		"local over files delete": {target: tree("type=local,mode=delete"), stale: true, leaves: files},
		"local over files of two": {target: both + out("type=local,mode=delete"), stale: true, leaves: files},
		"local mode unknown":      {target: tree("type=local,mode=nope"), fails: true},
		"epoch reset":             {target: out("type=oci,rewrite-timestamp=true,source-date-epoch="), env: epoch, leaves: archived},
		"epoch of the output":     {target: out("type=oci,rewrite-timestamp=true,source-date-epoch=1400000000"), env: epoch, leaves: archived},
		"tar epoch of the output": {target: tree("type=tar,source-date-epoch=1400000000"), leaves: tarred},
		"tar epoch reset":         {target: tree("type=tar,source-date-epoch="), env: epoch, leaves: tarred},
		"local epoch reset":       {target: tree("type=local,source-date-epoch="), env: epoch, leaves: files},
		"local epoch invalid":     {target: tree("type=local,source-date-epoch=nope"), fails: true},
		"attribute unknown":       {target: out("type=oci,nope=1"), leaves: archived},
		"type unknown":            {target: out("type=nope"), fails: true},
		"tar of nothing":          {target: nothing + out("type=tar"), leaves: tarred},
		"nothing":                 {target: nothing},
		"nothing attested":        {target: nothing + attested},
		"tar of nothing attested": {target: nothing + attested + out("type=tar"), leaves: tarred},
	}
}

// archived is what an archive of an image has: its index, and of others whether
// they are there.
func archived(t *testing.T, file string) any {
	t.Helper()
	out := make(map[string]any)
	blobs := 0
	eachOf(t, file, func(h *tar.Header, raw []byte) {
		switch {
		case h.Typeflag == tar.TypeDir:
			out[h.Name] = h.Mode
		case strings.HasPrefix(h.Name, "blobs/"):
			blobs++
		default:
			out[h.Name] = described(t, raw)
		}
	})
	out["blobs"] = blobs
	return out
}

// layout is what a directory has that is an image, as archived has it.
func layout(t *testing.T, dir string) any {
	t.Helper()
	out := make(map[string]any)
	blobs := 0
	check(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		check(t, err)
		info, err := d.Info()
		check(t, err)
		switch {
		case name == "ingest": // where buildx's store keeps what it is about to have
			return fs.SkipDir
		case d.IsDir():
			out[name] = info.Mode()
		case strings.HasPrefix(name, "blobs/"):
			blobs++
		default:
			raw, err := os.ReadFile(path)
			check(t, err)
			out[name] = "{}"
			if len(raw) > 0 {
				out[name] = described(t, raw)
			}
		}
		return nil
	}))
	out["blobs"] = blobs
	return out
}

func described(t *testing.T, raw []byte) any {
	t.Helper()
	var v any
	raw = madeBy.ReplaceAll(hashes.ReplaceAll(raw, []byte("$1")), []byte("made-by"))
	check(t, json.Unmarshal(raw, &v))
	return withoutDigests(v)
}

// tarred is what an archive of files has, in its order.
func tarred(t *testing.T, file string) any {
	t.Helper()
	var out []any
	eachOf(t, file, func(h *tar.Header, raw []byte) {
		entry := map[string]any{
			"name": h.Name, "type": string(h.Typeflag), "mode": fmt.Sprintf("%o", h.Mode), "owner": [2]int{h.Uid, h.Gid},
			"names": h.Uname + ":" + h.Gname, "link": h.Linkname, "time": whenMade(h.ModTime), "more": h.PAXRecords, "content": content(t, h.Name, raw),
		}
		delete(h.PAXRecords, "mtime")
		out = append(out, entry)
	})
	return out
}

// files is what a directory of files has.
func files(t *testing.T, dir string) any {
	t.Helper()
	out := make(map[string]any)
	check(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		check(t, err)
		entry := map[string]any{"mode": info.Mode().String(), "time": whenMade(info.ModTime())}
		switch {
		case info.Mode().IsRegular():
			raw, err := os.ReadFile(path)
			check(t, err)
			entry["content"] = content(t, path, raw)
		case info.Mode()&fs.ModeSymlink != 0:
			entry["link"], err = os.Readlink(path)
			check(t, err)
		}
		name, err := filepath.Rel(dir, path)
		check(t, err)
		out[name] = entry
		return nil
	}))
	return out
}

// content is what a file says. Statements are compared elsewhere.
func content(t *testing.T, name string, raw []byte) any {
	t.Helper()
	if filepath.Ext(name) != ".json" {
		return fmt.Sprintf("%d %.40q", len(raw), raw)
	}
	var statement struct {
		PredicateType string           `json:"predicateType"`
		Subject       []map[string]any `json:"subject"`
	}
	check(t, json.Unmarshal(raw, &statement))
	return withoutDigests(map[string]any{"type": statement.PredicateType, "subject": fmt.Sprintf("%v", names(statement.Subject))})
}

func names(subjects []map[string]any) []any {
	var out []any
	for _, s := range subjects {
		out = append(out, s["name"])
	}
	return out
}

// whenMade is a time that has a meaning, and not that of the build.
func whenMade(at time.Time) string {
	if time.Since(at) < time.Hour {
		return "now"
	}
	return at.UTC().Format(time.RFC3339)
}

func eachOf(t *testing.T, file string, do func(*tar.Header, []byte)) {
	t.Helper()
	f, err := os.Open(file)
	check(t, err)
	defer f.Close()
	for archive := tar.NewReader(f); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		check(t, err)
		raw, err := io.ReadAll(archive)
		check(t, err)
		do(h, raw)
	}
}
