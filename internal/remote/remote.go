// Package remote is what a build takes from elsewhere: files behind URLs and the
// trees of git repositories. What is named by a tag, a branch or nothing but a URL
// is pinned by its content first (the digest of the body, the hash of the commit);
// what is pinned is fetched once and kept.
//
// Servers are not trusted: everything has a deadline and a size, and nothing that
// comes from them decides where something is written. Credentials are handed to
// whoever needs them in memory or in its environment, never on a command line, and
// no error shows them.
package remote

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/util/urlutil"
)

// Fetcher fetches, and keeps what it has fetched in a directory. It has no state
// but that: any number of them, in any number of processes, may share the
// directory.
type Fetcher struct {
	// Dir is an absolute path. It need not exist.
	Dir string
	// Client is what speaks HTTP; nil is one with deadlines and the proxies of the
	// environment.
	Client *http.Client
	// Stall is how long a server may send nothing; 0 means a minute.
	Stall time.Duration
	// MaxSize is the size of the largest file that is fetched, in bytes; 0 means
	// 64 GiB.
	MaxSize int64
}

// Auth is where credentials come from. Its fields may be nil.
type Auth struct {
	// Secret gives the value of a secret by its id. The error is fs.ErrNotExist
	// if nobody has declared it.
	Secret func(id string) ([]byte, error)
	// Agent opens an SSH agent by its id, and gives the socket that it listens on
	// until done is called. The error is fs.ErrNotExist if nobody has declared it.
	Agent func(ctx context.Context, id string) (socket string, done func(), err error)
}

// The ids of secrets for HTTP begin so, and end in the host; as in BuildKit.
const (
	authHeader = "HTTP_AUTH_HEADER_"
	authToken  = "HTTP_AUTH_TOKEN_"
)

// secret gives the first of the secrets that somebody has declared, and its id;
// an empty id if there is none.
func (a Auth) secret(ids ...string) (id string, value []byte, err error) {
	if a.Secret == nil {
		return "", nil, nil
	}
	for _, id := range ids {
		value, err := a.Secret(id)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return id, value, err
	}
	return "", nil, nil
}

// Redact takes the credentials out of a URL.
func Redact(address string) string { return urlutil.RedactCredentials(address) }

// tmpPrefix begins the names of what is being written. A process that dies leaves
// it behind, for who sweeps up the directory.
const tmpPrefix = "new-"

// The directories below Fetcher.Dir.
const (
	blobsName = "blobs" // bodies, by their digest
	urlsName  = "urls"  // what a URL gave last, by the URL's digest
	reposName = "git"   // bare repositories with one commit each
)

// Kept is something that was fetched and is kept.
type Kept struct {
	Name     string // to Discard it by
	Size     int64  // bytes
	LastUsed time.Time
}

// Kept lists what is kept.
func (f *Fetcher) Kept() ([]Kept, error) {
	var all []Kept
	for _, kind := range kinds() {
		entries, err := os.ReadDir(f.path(kind))
		if errors.Is(err, fs.ErrNotExist) {
			continue // nothing was ever fetched
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil || strings.HasPrefix(e.Name(), tmpPrefix) {
				continue // it has gone meanwhile, or is not there yet
			}
			all = append(all, Kept{Name: path.Join(kind, e.Name()), Size: sizeOf(f.path(kind, e.Name())), LastUsed: info.ModTime()})
		}
	}
	return all, nil
}

func kinds() []string { return []string{blobsName, urlsName, reposName} }

// sizeOf is how much a file takes, or a directory with all that is in it: at least, if
// that changes meanwhile.
func sizeOf(name string) (size int64) {
	_ = filepath.WalkDir(name, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // it has gone meanwhile
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
		return nil
	})
	return size
}

// Discard gives up something that is kept. Who needs it fetches it again.
func (f *Fetcher) Discard(name string) error {
	kind, base, _ := strings.Cut(name, "/")
	if !slices.Contains(kinds(), kind) || base == "" || base != filepath.Base(base) || strings.HasPrefix(base, ".") {
		return fmt.Errorf("%q: %w", name, fs.ErrInvalid)
	}
	return f.discard(f.path(kind, base))
}

func (f *Fetcher) path(elem ...string) string {
	return filepath.Join(append([]string{f.Dir}, elem...)...)
}

// used notes that a file or directory was of use now.
func used(path string) {
	now := time.Now()
	_ = os.Chtimes(path, now, now)
}

// nameOf is a file name for anything.
func nameOf(parts ...string) string {
	sum := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(sum, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(sum.Sum(nil))[:40]
}

// SecretIDs are the ids of the secrets that fetching the file may ask for, the first that
// there is counts.
func (f *File) SecretIDs() []string {
	if f.AuthSecret != "" {
		return []string{f.AuthSecret}
	}
	u, err := url.Parse(f.URL)
	if err != nil {
		return nil
	}
	return []string{authToken + u.Hostname(), authHeader + u.Hostname()}
}

// SecretIDs are the ids of the secrets that fetching the tree may ask for.
func (t *Tree) SecretIDs() []string {
	u, err := url.Parse(t.Remote)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return nil
	}
	var ids []string
	for _, id := range []string{t.AuthHeader, t.AuthToken} {
		if id != "" {
			ids = append(ids, id+"."+u.Host)
		}
	}
	for _, id := range []string{t.AuthHeader, t.AuthToken} {
		if id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}
