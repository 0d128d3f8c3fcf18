package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/zbuild/zbuild/internal/beneath"
	"github.com/zbuild/zbuild/internal/ctxio"
	"github.com/zbuild/zbuild/internal/sealed"
)

// File is a file behind a URL. It is inert.
type File struct {
	URL string
	// Name is the file's name in the tree that it makes. Empty means what the
	// server calls it (Content-Disposition), or else the end of the URL's path.
	Name string
	// Mode are the permission bits, UID and GID the owner.
	Mode     uint32
	UID, GID int
	// Header is sent along.
	Header map[string]string
	// AuthSecret is the id of the secret that is the value of the header
	// Authorization. Without it there are HTTP_AUTH_HEADER_host and
	// HTTP_AUTH_TOKEN_host, as in BuildKit.
	AuthSecret string
	// Digest is that of the content. It is empty until the file was resolved,
	// unless whoever asks for it knows it.
	Digest digest.Digest
	// Modified is what the server says about it; the zero time if nothing.
	Modified time.Time
}

// visit is what a URL gave the last time. It is kept as JSON.
type visit struct {
	URL      string        `json:"url"` // without credentials
	ETag     string        `json:"etag"`
	Digest   digest.Digest `json:"digest"`
	Name     string        `json:"name,omitempty"` // the server's
	Modified time.Time     `json:"modified"`
}

// Resolve finds out what a URL stands for now: its digest, name and time. What is
// pinned already is not asked for. Otherwise the file is fetched, unless the
// server says that it is still the one that was fetched before (RFC 9110,
// If-None-Match).
func (f *Fetcher) Resolve(ctx context.Context, file File, auth Auth) (*File, error) {
	if file.Digest != "" {
		if err := file.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("the checksum %q: %w", file.Digest, err)
		}
		file.Name = fileName(file, "")
		return &file, nil
	}
	v, err := f.visit(ctx, file, auth)
	if err != nil {
		return nil, err
	}
	file.Digest, file.Modified, file.Name = v.Digest, v.Modified, fileName(file, v.Name)
	return &file, nil
}

// Open opens the content of a resolved file, which is fetched if it is not at
// hand, and gives its time. Reading to its end makes sure that it is the right
// content: an error otherwise.
func (f *Fetcher) Open(ctx context.Context, file File, auth Auth) (io.ReadCloser, time.Time, error) {
	if r, err := f.openKept(ctx, file.Digest); err == nil {
		return r, f.modified(ctx, file, auth), nil
	}
	v, err := f.visit(ctx, file, auth)
	if err != nil {
		return nil, time.Time{}, err
	}
	if v.Digest != file.Digest {
		return nil, time.Time{}, &MismatchError{URL: Redact(file.URL), Want: file.Digest, Got: v.Digest}
	}
	r, err := f.openBlob(file.Digest)
	return r, v.Modified, err
}

// modified is the time of a file whose content is at hand. That may have come from
// another URL: only the server of this one knows when it was modified there. If it
// does not answer, nobody knows.
func (f *Fetcher) modified(ctx context.Context, file File, auth Auth) time.Time {
	if !file.Modified.IsZero() {
		return file.Modified
	}
	v, err := f.lastVisit(file)
	if err != nil || v.Digest != file.Digest {
		v, err = f.visit(ctx, file, auth)
	}
	if err != nil || v.Digest != file.Digest {
		return time.Time{}
	}
	return v.Modified
}

// MismatchError says that a URL has other content than it should.
type MismatchError struct {
	URL       string
	Want, Got digest.Digest
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("the content of %s has the digest %s, expected is %s", e.URL, e.Got, e.Want)
}

// StatusError is an answer of a server that is no file.
type StatusError struct {
	URL    string
	Status string // "404 Not Found"
	Code   int
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s: the server answers %s", e.URL, e.Status)
}

func (f *Fetcher) openBlob(d digest.Digest) (io.ReadCloser, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	p := f.path(blobsName, blobName(d))
	if !f.has(d) {
		return nil, &fs.PathError{Op: "open", Path: p, Err: fs.ErrNotExist}
	}
	r, err := os.Open(p)
	if err != nil {
		return nil, err
	}
	used(p)
	return &checkedReader{File: r, verifier: d.Verifier(), want: d}, nil
}

// openKept opens a file that was fetched at some time, if it is what it was then. One that
// is not is removed: it is as good as never fetched.
func (f *Fetcher) openKept(ctx context.Context, d digest.Digest) (io.ReadCloser, error) {
	r, err := f.openBlob(d)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(io.Discard, ctxio.NewReader(ctx, r))
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	return f.openBlob(d)
}

func blobName(d digest.Digest) string { return d.Algorithm().String() + "-" + d.Encoded() }

// checkedReader is a kept file that must be what it was. One that is not is
// removed, so that it is fetched again the next time.
type checkedReader struct {
	*os.File
	verifier digest.Verifier
	want     digest.Digest
}

func (r *checkedReader) Read(p []byte) (int, error) {
	n, err := r.File.Read(p)
	_, _ = r.verifier.Write(p[:n])
	if errors.Is(err, io.EOF) && !r.verifier.Verified() {
		_ = os.Remove(r.Name())
		return n, fmt.Errorf("the file that was fetched earlier is damaged (its digest is not %s); it has been removed, try again", r.want)
	}
	return n, err
}

// WriteTo must not go past Read.
func (r *checkedReader) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{r})
}

func (f *Fetcher) visitFile(file File) string {
	parts := []string{file.URL, file.AuthSecret}
	for _, k := range slices.Sorted(maps.Keys(file.Header)) {
		parts = append(parts, k, file.Header[k])
	}
	return f.path(urlsName, nameOf(parts...))
}

// maxVisit is how big what is noted of a visit may be.
const maxVisit = 1 << 20 // bytes

func (f *Fetcher) lastVisit(file File) (visit, error) {
	var v visit
	raw, err := beneath.ReadFile(f.visitFile(file), maxVisit)
	if err == nil {
		err = json.Unmarshal(raw, &v)
	}
	return v, err
}

const tries = 3

// visit asks the server, again if it has a moment of weakness.
func (f *Fetcher) visit(ctx context.Context, file File, auth Auth) (visit, error) {
	delay := 500 * time.Millisecond
	for n := 1; ; n++ {
		v, err := f.ask(ctx, file, auth)
		if err == nil || n == tries || !passing(err) || ctx.Err() != nil {
			return v, err
		}
		select {
		case <-ctx.Done():
			return v, context.Cause(ctx)
		case <-time.After(delay):
			delay *= 2
		}
	}
}

// passing reports whether an error may be gone the next time.
func passing(err error) bool {
	var status *StatusError
	if errors.As(err, &status) {
		return status.Code >= 500 || status.Code == http.StatusTooManyRequests
	}
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF)
}

func (f *Fetcher) ask(ctx context.Context, file File, auth Auth) (visit, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := f.request(ctx, file, auth)
	if err != nil {
		return visit{}, err
	}
	old, oldErr := f.lastVisit(file)
	known := oldErr == nil && old.ETag != "" && f.has(old.Digest)
	if known {
		req.Header.Set("If-None-Match", old.ETag)
	}
	resp, err := f.client().Do(req)
	if err != nil {
		return visit{}, f.explain(ctx, file, err)
	}
	defer resp.Body.Close()
	same := known && (resp.StatusCode == http.StatusNotModified ||
		resp.StatusCode == http.StatusOK && strong(resp.Header.Get("ETag")) == strong(old.ETag))
	switch {
	case same:
		used(f.visitFile(file))
		return old, nil
	case resp.StatusCode != http.StatusOK:
		return visit{}, &StatusError{URL: Redact(file.URL), Status: resp.Status, Code: resp.StatusCode}
	}
	v := visit{URL: Redact(file.URL), ETag: resp.Header.Get("ETag"), Name: dispositionName(resp.Header)}
	if t, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		v.Modified = t
	}
	if v.Digest, err = f.keep(ctx, cancel, file, resp); err != nil {
		return visit{}, f.explain(ctx, file, err)
	}
	raw, err := json.Marshal(v)
	if err == nil {
		err = writeFile(f.visitFile(file), bytes.NewReader(raw))
	}
	return v, err
}

// explain says what an error means, without credentials, and what happened if
// the context says it better.
func (f *Fetcher) explain(ctx context.Context, file File, err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
		err = cause
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("%s: the server does not answer in time: %w", Redact(file.URL), err)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%s: the server sent less than it announced: %w", Redact(file.URL), err)
	}
	return fmt.Errorf("%s: %w", Redact(file.URL), err)
}

func (f *Fetcher) request(ctx context.Context, file File, auth Auth) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, file.URL, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("the URL %s is invalid", Redact(file.URL))
	}
	req.Header.Set("User-Agent", "zbuild")
	for k, v := range file.Header {
		req.Header.Set(k, v)
	}
	id, value, err := auth.secret(file.SecretIDs()...)
	switch {
	case err != nil:
		return nil, err
	case id == "" && file.AuthSecret != "":
		return nil, fmt.Errorf("the secret %q is needed for %s, and the target does not have it", file.AuthSecret, Redact(file.URL))
	case id == "":
	case file.AuthSecret == "" && strings.HasPrefix(id, authToken):
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(value)))
	default:
		req.Header.Set("Authorization", strings.TrimSpace(string(value)))
	}
	return req, nil
}

// client has a deadline for everything but the body, which has its own.
func (f *Fetcher) client() *http.Client {
	if f.Client != nil {
		return f.Client
	}
	return &http.Client{Transport: &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:    30 * time.Second,
		ResponseHeaderTimeout:  f.stall(),
		MaxResponseHeaderBytes: 1 << 20,
		ForceAttemptHTTP2:      true,
		DisableKeepAlives:      true, // nobody asks twice
	}}
}

func (f *Fetcher) stall() time.Duration {
	if f.Stall > 0 {
		return f.Stall
	}
	return time.Minute
}

func (f *Fetcher) maxSize() int64 {
	if f.MaxSize > 0 {
		return f.MaxSize
	}
	return 64 << 30
}

func (f *Fetcher) has(d digest.Digest) bool {
	if d.Validate() != nil {
		return false
	}
	info, err := os.Stat(f.path(blobsName, blobName(d)))
	return err == nil && info.Mode().IsRegular()
}

// keep writes a body to a file that is named by its digest.
func (f *Fetcher) keep(ctx context.Context, cancel context.CancelCauseFunc, file File, resp *http.Response) (digest.Digest, error) {
	algorithm := digest.Canonical
	if file.Digest != "" {
		algorithm = file.Digest.Algorithm()
	}
	if resp.ContentLength > f.maxSize() {
		return "", fmt.Errorf("%d bytes are too many, the most is %d", resp.ContentLength, f.maxSize())
	}
	dir := f.path(blobsName)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	tmp, err := os.CreateTemp(dir, tmpPrefix)
	if err != nil {
		return "", err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // it is not there any more if all went well
	stalled := fmt.Errorf("the server has sent nothing for %s", f.stall())
	timer := time.AfterFunc(f.stall(), func() { cancel(stalled) })
	defer timer.Stop()
	body := &steadyReader{r: io.LimitReader(resp.Body, f.maxSize()+1), timer: timer, patience: f.stall()}
	sum := algorithm.Digester()
	n, err := io.Copy(io.MultiWriter(tmp, sum.Hash()), body)
	if err == nil && n > f.maxSize() {
		err = fmt.Errorf("the file is larger than %d bytes, which is the most", f.maxSize())
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return "", err
	}
	d := sum.Digest()
	return d, sealed.Replace(tmp.Name(), f.path(blobsName, blobName(d)))
}

// steadyReader puts a deadline off whenever something arrives.
type steadyReader struct {
	r        io.Reader
	timer    *time.Timer
	patience time.Duration
}

func (s *steadyReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.timer.Reset(s.patience)
	return n, err
}

// strong is an ETag without the mark of a weak one.
func strong(etag string) string { return strings.TrimPrefix(etag, "W/") }

// fileName is the name of a file in its tree: what was asked for, what the server
// calls it, or the end of the URL's path. It is one element of a path, always.
func fileName(file File, served string) string {
	for _, name := range []string{file.Name, served, urlName(file.URL)} {
		name = path.Base(path.Clean("/" + filepath.ToSlash(name)))
		if name != "/" && name != "." && name != ".." && !strings.ContainsRune(name, 0) {
			return name
		}
	}
	return "download"
}

func urlName(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	return u.Path
}

// dispositionName is the file name of a Content-Disposition header; see RFC 6266.
func dispositionName(h http.Header) string {
	_, params, err := mime.ParseMediaType(h.Get("Content-Disposition"))
	if err != nil || strings.HasSuffix(params["filename"], "/") {
		return ""
	}
	return params["filename"]
}

// writeFile replaces a file whole or not at all.
func writeFile(name string, from io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), tmpPrefix)
	if err != nil {
		return err
	}
	_, err = io.Copy(tmp, from)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = sealed.Replace(tmp.Name(), name)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}
