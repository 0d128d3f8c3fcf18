//go:build !linux

package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/zbuild/zbuild/internal/session"
)

// errNotLinux is what there is to say about building on other systems.
var errNotLinux = errors.New("the buildah engine needs Linux: use zbuild inside of a Linux machine, such as that of 'podman machine ssh'")

func initReexec() bool { return false }

func enterNamespace() error { return nil }

func openEngine(context.Context, engineFlags, *slog.Logger) (session.Engine, error) {
	return nil, errNotLinux
}

func probe(context.Context, engineFlags, *slog.Logger) examination {
	return examination{Checks: []check{{
		Name: "system", Value: "not Linux", Status: checkFail, Detail: errNotLinux.Error(),
	}}}
}
