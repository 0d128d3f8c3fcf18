package main

import (
	"context"
	"fmt"
	"time"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"

	"github.com/zbuild/zbuild/internal/s3cache"
)

// openBucket opens a cache of type s3. Who we are there, and in which region, is
// said by the cache's attributes or else by what AWS's programs have: variables,
// profiles, the machine's role.
func openBucket(ctx context.Context, o s3cache.Options) (*s3cache.Cache, error) {
	var with []func(*awsconfig.LoadOptions) error
	if o.Region != "" {
		with = append(with, awsconfig.WithRegion(o.Region))
	}
	cfg, err := awsconfig.LoadDefaultConfig(ctx, with...)
	if err != nil {
		return nil, fmt.Errorf("AWS's configuration: %w", err)
	}
	return s3cache.Open(cfg, o, time.Now)
}
