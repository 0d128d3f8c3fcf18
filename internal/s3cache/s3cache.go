// Package s3cache keeps caches of steps in buckets of S3, or of whatever speaks
// its protocol, under the keys and with the attributes that BuildKit documents
// for its s3 cache. The objects are zbuild's own: see internal/stepcache.
//
// It reads no environment and no files: where credentials come from is in the
// configuration that it is handed.
package s3cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/middleware"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/zbuild/zbuild/internal/pack"
)

const (
	// defaultName is the manifest's name where none is said, as BuildKit has it.
	defaultName = "buildkit"
	// defaultTouch is how old a blob may get before it is made young again, so that
	// a bucket may expire what nobody has used for longer.
	defaultTouch = 24 * time.Hour
	// maxCopy is how long an object may be that S3 copies in one request, in bytes.
	maxCopy = 5 << 30
	// patience is how long nothing may come of a blob before it is given up.
	patience = 2 * time.Minute
)

// Options are what the attributes of a cache say.
type Options struct {
	// Bucket and Region may be empty if the configuration handed to Open has a
	// region; without a bucket there is no cache.
	Bucket, Region string
	// Names are the manifests' names; a cache is written under all of them.
	Names    []string
	Endpoint string
	// PathStyle puts the bucket into the path of URLs and not into the host name.
	PathStyle bool

	manifests, blobs string // what keys begin with
	touch            time.Duration
	parallel         int
	identity         aws.CredentialsProvider // nil for that of the configuration
	keepEncoding     bool
	retryMode        aws.RetryMode
	retryAttempts    int
}

// Parse reads the attributes of a cache of type s3. The error names the attribute,
// and has no value of one that is secret.
func Parse(attrs map[string]string) (Options, error) {
	prefix := attrs["prefix"]
	o := Options{
		Bucket: attrs["bucket"], Region: attrs["region"], Endpoint: attrs["endpoint_url"],
		Names: strings.Split(cmp.Or(attrs["name"], defaultName), ";"), touch: defaultTouch, parallel: 4,
		manifests: prefix + orDefault(attrs, "manifests_prefix", "manifests/"), blobs: prefix + orDefault(attrs, "blobs_prefix", "blobs/"),
	}
	var errs []error
	number := func(key string, to *int) {
		if v := attrs[key]; v != "" {
			n, err := strconv.Atoi(v)
			if err != nil || n < 1 {
				errs = append(errs, fmt.Errorf("%s is a number from 1 on", key))
			}
			*to = n
		}
	}
	truth := func(key string, to *bool) {
		if v := attrs[key]; v != "" {
			b, err := strconv.ParseBool(v)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s is true or false", key))
			}
			*to = b
		}
	}
	number("upload_parallelism", &o.parallel)
	number("retry_max_attempts", &o.retryAttempts)
	truth("use_path_style", &o.PathStyle)
	truth("disable_accept_encoding", &o.keepEncoding)
	if v := attrs["touch_refresh"]; v != "" {
		var err error
		if o.touch, err = time.ParseDuration(v); err != nil {
			errs = append(errs, errors.New("touch_refresh is a time such as 24h"))
		}
	}
	if o.Endpoint != "" {
		if u, err := url.Parse(o.Endpoint); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			errs = append(errs, errors.New("endpoint_url is a URL such as https://s3.example.com"))
		}
	}
	switch m := attrs["retry_mode"]; m {
	case "":
	case string(aws.RetryModeStandard), string(aws.RetryModeAdaptive):
		o.retryMode = aws.RetryMode(m)
	default:
		errs = append(errs, errors.New("retry_mode is standard or adaptive"))
	}
	switch id, secret := attrs["access_key_id"], attrs["secret_access_key"]; {
	case id != "" && secret != "":
		o.identity = credentials.NewStaticCredentialsProvider(id, secret, attrs["session_token"])
	case id != "" || secret != "":
		errs = append(errs, errors.New("access_key_id and secret_access_key belong together"))
	}
	return o, errors.Join(errs...)
}

// orDefault is an attribute that may be set to nothing.
func orDefault(attrs map[string]string, key, usual string) string {
	if v, ok := attrs[key]; ok {
		return v
	}
	return usual
}

// Cache is a place in a bucket.
type Cache struct {
	opt    Options
	client *s3.Client
	now    func() time.Time
}

// Open makes a cache of options and a configuration, which has the credentials
// unless the options do, and a clock. Nothing is asked for yet.
func Open(cfg aws.Config, o Options, now func() time.Time) (*Cache, error) {
	if o.Bucket == "" {
		return nil, errors.New("it has no bucket: say bucket=NAME, or set AWS_BUCKET")
	}
	region := cmp.Or(o.Region, cfg.Region)
	if region == "" {
		return nil, errors.New("it has no region: say region=NAME, or set AWS_REGION")
	}
	// Other makers' servers do not know the newer checksums.
	cfg.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
	cfg.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	client := s3.NewFromConfig(cfg, func(so *s3.Options) {
		so.Region = region
		if o.identity != nil {
			so.Credentials = o.identity
		}
		if o.Endpoint != "" {
			so.BaseEndpoint = aws.String(o.Endpoint)
			so.UsePathStyle = o.PathStyle
		}
		if o.retryMode != "" {
			so.RetryMode = o.retryMode
		}
		if o.retryAttempts > 0 {
			so.RetryMaxAttempts = o.retryAttempts
		}
		if o.keepEncoding {
			// Google's front end changes a header that has been signed.
			so.APIOptions = append(so.APIOptions, func(s *middleware.Stack) error {
				_, err := s.Finalize.Remove("DisableAcceptEncodingGzip")
				return err
			})
		}
	})
	return &Cache{opt: o, client: client, now: now}, nil
}

// Sources are what can be read: one per name. A name that does not exist is told
// when it is read.
func (c *Cache) Sources() []pack.Source {
	var out []pack.Source
	for _, n := range c.opt.Names {
		out = append(out, &source{c, n})
	}
	return out
}

// source is one name of a cache.
type source struct {
	c    *Cache
	name string
}

// Manifest is for pack.Source.
func (s *source) Manifest(ctx context.Context, instance digest.Digest) ([]byte, error) {
	const most = 32 << 20
	if instance != "" {
		return pack.ReadBlob(ctx, s, ocispecs.Descriptor{Digest: instance}, most)
	}
	in, err := s.c.get(ctx, s.c.opt.manifests+s.name)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	data, err := io.ReadAll(io.LimitReader(in, most+1))
	if err == nil && len(data) > most {
		err = fmt.Errorf("the manifest is longer than %d bytes", most)
	}
	return data, err
}

// Blob is for pack.Source.
func (s *source) Blob(ctx context.Context, desc ocispecs.Descriptor) (io.ReadCloser, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, err // it is going to be part of a key
	}
	return s.c.get(ctx, s.c.opt.blobs+desc.Digest.String())
}

// get opens an object. The reader ends when nothing comes for too long.
func (c *Cache) get(ctx context.Context, key string) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(patience, func() { cancel(errStalled) })
	out, err := c.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &c.opt.Bucket, Key: &key})
	if err != nil {
		timer.Stop()
		err = c.explain(ctx, key, err)
		cancel(nil)
		return nil, err
	}
	return &lively{ctx: ctx, in: out.Body, timer: timer, stop: func() { cancel(nil) }}, nil
}

var errStalled = fmt.Errorf("the server has sent nothing for %s", patience)

// lively is a reader that pushes a timer back as long as something comes.
type lively struct {
	ctx   context.Context // it ends with the reader
	in    io.ReadCloser
	timer *time.Timer
	stop  func()
}

// Read is for io.Reader.
func (l *lively) Read(p []byte) (int, error) {
	n, err := l.in.Read(p)
	if n > 0 {
		l.timer.Reset(patience)
	}
	if err != nil && !errors.Is(err, io.EOF) && l.ctx.Err() != nil {
		err = context.Cause(l.ctx)
	}
	return n, err
}

// Close is for io.Closer.
func (l *lively) Close() error {
	l.timer.Stop()
	err := l.in.Close()
	l.stop()
	return err
}

// explain says of an error what it was about. The library's errors name the
// request, and no credentials.
func (c *Cache) explain(ctx context.Context, key string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var noKey *types.NoSuchKey
	if errors.As(err, &noKey) {
		return fmt.Errorf("the bucket %s has no %s", c.opt.Bucket, key)
	}
	return fmt.Errorf("s3://%s/%s: %w", c.opt.Bucket, key, err)
}

// Write leaves a bundle in the cache: its blobs first, and under the names when
// all of them are there. What is there already is not sent again.
func (c *Cache) Write(ctx context.Context, b *pack.Bundle) error {
	up := transfermanager.New(c.client, func(o *transfermanager.Options) {
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
	})
	put := func(ctx context.Context, key string, body io.Reader) error {
		_, err := up.UploadObject(ctx, &transfermanager.UploadObjectInput{Bucket: &c.opt.Bucket, Key: &key, Body: body})
		if err != nil {
			return c.explain(ctx, key, err)
		}
		return nil
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(c.opt.parallel)
	for _, blob := range b.Blobs {
		g.Go(func() error {
			key := c.opt.blobs + blob.Digest.String()
			if there, err := c.present(gctx, key, blob.Size); err != nil || there {
				return err
			}
			in, err := blob.Open(gctx)
			if err != nil {
				return err
			}
			defer in.Close()
			return put(gctx, key, in)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, name := range c.opt.Names {
		if err := put(ctx, c.opt.manifests+name, strings.NewReader(string(b.Root.Data))); err != nil {
			return err
		}
	}
	return nil
}

// present reports whether a blob is there, and makes it young again if it has not
// been used for long.
func (c *Cache) present(ctx context.Context, key string, size int64) (bool, error) {
	head, err := c.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &c.opt.Bucket, Key: &key})
	var missing *types.NotFound
	switch {
	case errors.As(err, &missing):
		return false, nil
	case err != nil:
		return false, c.explain(ctx, key, err)
	case aws.ToInt64(head.ContentLength) != size:
		return false, nil // half of it, or something else
	case size >= maxCopy || head.LastModified == nil || c.now().Sub(*head.LastModified) < c.opt.touch:
		return true, nil
	}
	from := url.PathEscape(c.opt.Bucket) + "/" + (&url.URL{Path: key}).EscapedPath()
	_, err = c.client.CopyObject(ctx, &s3.CopyObjectInput{
		Bucket: &c.opt.Bucket, Key: &key, CopySource: &from, MetadataDirective: types.MetadataDirectiveReplace,
		Metadata: map[string]string{"updated-at": c.now().UTC().Format(time.RFC3339)},
	})
	if err != nil {
		return false, c.explain(ctx, key, err)
	}
	return true, nil
}
