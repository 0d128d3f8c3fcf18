module github.com/moby/policy-helpers

go 1.26.0

require (
	github.com/containerd/containerd/v2 v2.2.3
	github.com/opencontainers/go-digest v1.0.0
	github.com/opencontainers/image-spec v1.1.1
)
