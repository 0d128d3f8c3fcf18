package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/sirupsen/logrus"
	libbuildah "go.podman.io/buildah"
	"go.podman.io/storage/pkg/homedir"
	"go.podman.io/storage/pkg/unshare"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/internal/session"
	"github.com/zbuild/zbuild/runner/buildah"
)

func initReexec() bool { return libbuildah.InitReexec() }

// enterNamespace puts an ordinary user's process into a user namespace of its
// own, by starting it again; it then returns only in there. The store of such a
// user cannot be opened outside. For root nothing happens.
func enterNamespace() error {
	if os.Geteuid() != 0 {
		for _, helper := range []string{"newuidmap", "newgidmap"} {
			if _, err := exec.LookPath(helper); err != nil {
				return &session.EngineError{Err: fmt.Errorf("an ordinary user's builds need %s, which is not installed: install the package uidmap (Debian) or shadow-utils (Fedora)", helper)}
			}
		}
	}
	// Otherwise it is set to rootless in there, as if the user had asked for that
	// and nothing else would do.
	if _, ok := os.LookupEnv("BUILDAH_ISOLATION"); !ok {
		if err := os.Setenv("BUILDAH_ISOLATION", ""); err != nil {
			return err
		}
	}
	// Whatever goes wrong in there is logged, and then ends the process with a
	// code that means something else to us.
	log := logrus.StandardLogger()
	hooks := log.ReplaceHooks(make(logrus.LevelHooks))
	log.AddHook(namespaceHook{})
	defer log.ReplaceHooks(hooks)
	unshare.MaybeReexecUsingUserNamespace(false)
	return setRuntimeDir()
}

// setRuntimeDir gives an ordinary user who has no directory for what lasts as long as
// they are logged in, as after su and in CI, the one that buildah gives them. Without one
// credentials are looked for where root's are, which may not be looked at.
func setRuntimeDir() error {
	const variable = "XDG_RUNTIME_DIR"
	if !unshare.IsRootless() || os.Getenv(variable) != "" {
		return nil
	}
	dir, err := homedir.GetRuntimeDir()
	if err != nil {
		return &session.EngineError{Err: fmt.Errorf("%s is not set, and there is no other directory for credentials: %w", variable, err)}
	}
	return os.Setenv(variable, dir)
}

// namespaceHook ends the process when it cannot enter a user namespace.
type namespaceHook struct{}

// Levels is for logrus.
func (namespaceHook) Levels() []logrus.Level {
	return []logrus.Level{logrus.PanicLevel, logrus.FatalLevel, logrus.ErrorLevel}
}

// Fire is for logrus.
func (namespaceHook) Fire(e *logrus.Entry) error {
	// The process that enters it may be interrupted before it has come to handling
	// signals.
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		if strings.Contains(e.Message, "signal: "+signal.String()) {
			fmt.Fprintln(os.Stderr, "zbuild: interrupted")
			os.Exit(exitInterrupted)
		}
	}
	fmt.Fprintf(os.Stderr, "zbuild: cannot enter a user namespace: %s\n", e.Message)
	fmt.Fprintln(os.Stderr, "An ordinary user needs ranges in /etc/subuid and /etc/subgid (usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER), and a kernel that allows user namespaces.")
	os.Exit(exitUnusable)
	return nil
}

func engineOptions(f engineFlags, log *slog.Logger) (buildah.Options, error) {
	opt := buildah.Options{
		Driver:        f.StorageDriver,
		DriverOptions: f.StorageOpt,
		Runtime:       f.Runtime,
		Isolation:     f.Isolation,
		AuthFile:      f.Authfile,
		PolicyFile:    f.SignaturePolicy,
		Logger:        log,
		Fatal: func(err error) {
			fmt.Fprintf(os.Stderr, "\nzbuild: %v\n", err)
			os.Exit(exitUnusable)
		},
	}
	// The store wants absolute paths.
	for _, p := range []struct {
		from string
		to   *string
	}{{f.Root, &opt.Root}, {f.Runroot, &opt.RunRoot}} {
		if p.from == "" {
			continue
		}
		abs, err := filepath.Abs(p.from)
		if err != nil {
			return opt, err
		}
		*p.to = abs
	}
	return opt, nil
}

func openEngine(ctx context.Context, f engineFlags, log *slog.Logger) (session.Engine, error) {
	opt, err := engineOptions(f, log)
	if err != nil {
		return nil, err
	}
	// The store's library makes the root directory of every layer by it, and who has no
	// right to enter that can run nothing; podman sets it, too. What the user would
	// rather have is for files of their own.
	unix.Umask(0o022)
	engine, err := buildah.Open(ctx, opt)
	if err != nil {
		return nil, err
	}
	return engine, nil
}

func probe(ctx context.Context, f engineFlags, log *slog.Logger) examination {
	opt, err := engineOptions(f, log)
	if err != nil {
		return unusable(err)
	}
	report := buildah.Probe(ctx, opt)
	e := examination{Usable: report.Usable()}
	for _, c := range report.Checks {
		e.Checks = append(e.Checks, check{
			Name: c.Name, Value: c.Value, Status: string(c.Status), Detail: c.Why, Fix: c.Fix,
		})
	}
	return e
}
