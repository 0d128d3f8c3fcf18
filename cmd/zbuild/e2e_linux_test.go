package main

import (
	"bytes"
	"crypto/subtle"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/rogpeppe/go-internal/testscript"
	"go.podman.io/storage"
	"go.podman.io/storage/pkg/unshare"
	"go.podman.io/storage/types"

	"github.com/zbuild/zbuild/internal/storecheck"
)

// Credentials of the registry that the script command "registry" starts.
const (
	registryUser     = "someone"
	registryPassword = "correct-horse-battery-staple"
)

// e2eSetup gives a script a containers-storage of its own, which zbuild and
// Debian's buildah, podman and skopeo find by the same configuration, and the
// variables
//
//	REPO    the repository
//	USERNS  a command that enters the user namespace of an ordinary user's store,
//	        empty for root
//	GOROOT  the host's Go
func e2eSetup(env *testscript.Env) error {
	repo, err := filepath.Abs("../..")
	if err != nil {
		return err
	}
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("go env GOROOT: %w", err)
	}
	home := filepath.Join(env.WorkDir, ".home")
	run := filepath.Join(env.WorkDir, ".run")
	// Where it would be anyway: for an ordinary user Debian's buildah does not
	// listen to what the configuration says about it.
	store := filepath.Join(home, ".local", "share", "containers", "storage")
	for _, dir := range []string{store, run} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	// Without skip_mount_home root's store is a mount that nobody unmounts.
	conf := filepath.Join(home, "storage.conf")
	text := fmt.Sprintf("[storage]\ndriver = \"overlay\"\ngraphroot = %q\nrunroot = %q\n\n[storage.options.overlay]\nskip_mount_home = \"true\"\n",
		store, filepath.Join(run, "containers"))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return err
	}
	userns := ""
	if os.Geteuid() != 0 {
		userns = "buildah unshare"
	}
	env.Setenv("REPO", repo)
	env.Setenv("HOME", home)
	env.Setenv("XDG_RUNTIME_DIR", run)
	env.Setenv("USERNS", userns)
	env.Setenv("GOROOT", strings.TrimSpace(string(goroot)))
	env.Setenv("CONTAINERS_STORAGE_CONF", conf)
	env.Defer(func() { e2eCleanUp(env, filepath.Dir(store)) })
	return nil
}

// e2eCleanUp removes a script's store.
func e2eCleanUp(env *testscript.Env, store string) {
	commands := [][]string{{"rm", "-rf", store}}
	if env.Getenv("USERNS") != "" {
		commands = [][]string{
			// Podman leaves a process that keeps an ordinary user's namespace.
			{"podman", "system", "migrate"},
			// Files of subordinate IDs cannot be removed from outside.
			{"buildah", "unshare", "rm", "-rf", store},
		}
	}
	for _, command := range commands {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Env = env.Vars
		if out, err := cmd.CombinedOutput(); err != nil {
			env.T().Fatal(fmt.Sprintf("%s: %v\n%s", strings.Join(command, " "), err, out))
		}
	}
}

// e2eCommands are the script commands of the end-to-end tests.
func e2eCommands() map[string]func(*testscript.TestScript, bool, []string) {
	all := remoteCommands()
	maps.Copy(all, map[string]func(*testscript.TestScript, bool, []string){
		"stage-busybox": cmdStageBusybox,
		"exits":         cmdExits,
		"bad":           cmdBad,
		"registry":      cmdRegistry,
		"store-clean":   cmdStoreClean,
	})
	return all
}

// stage-busybox DIR... puts the host's static busybox into DIR/bin.
func cmdStageBusybox(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: stage-busybox DIR...")
	}
	ts.Check(ts.Exec(filepath.Join(ts.Getenv("REPO"), ".ci", "stage-busybox"), args...))
}

// exits STATUS COMMAND... runs a command that has to end with that status.
// STATUS is a regular expression. What the command prints is what stdout and
// stderr look at next.
func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND ARGUMENT...")
	}
	err := ts.Exec(args[1], args[2:]...)
	status := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		status = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if !regexp.MustCompile("^(?:" + args[0] + ")$").MatchString(strconv.Itoa(status)) {
		ts.Fatalf("%s: exit status %d, want %s", strings.Join(args[1:], " "), status, args[0])
	}
}

// bad STATUS REGEXP COMMAND... runs a command with bad input: it ends with that
// status within a minute, prints what REGEXP matches to standard error and no
// stack trace, and leaves neither an image nor anything half made.
func cmdBad(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: bad STATUS REGEXP COMMAND ARGUMENT...")
	}
	start := time.Now()
	cmdExits(ts, false, append([]string{args[0]}, args[2:]...))
	if took := time.Since(start); took > time.Minute {
		ts.Fatalf("took %v", took)
	}
	text := ts.ReadFile("stderr")
	if !regexp.MustCompile("(?m)" + args[1]).MatchString(text) {
		ts.Fatalf("stderr does not match %s", args[1])
	}
	if regexp.MustCompile(`(?m)^goroutine \d+ \[|^panic: `).MatchString(text) {
		ts.Fatalf("a stack trace is no message")
	}
	list := exec.Command("buildah", "images", "--all", "--quiet")
	list.Env = scriptEnv(ts)
	out, err := list.CombinedOutput()
	ts.Check(err)
	if len(bytes.TrimSpace(out)) > 0 {
		ts.Fatalf("images were left: %s", out)
	}
}

// registry starts a registry that asks for a user and a password, and sets
// REGISTRY to its address, REGISTRY_USER, REGISTRY_PASSWORD and
// REGISTRY_AUTH_FILE, which names a file without credentials. "registry tls" starts
// another one, which asks nobody and has a certificate that nobody knows: that is in
// ca.pem, and its address is TLS_REGISTRY.
func cmdRegistry(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 1 || len(args) == 1 && args[0] != "tls" {
		ts.Fatalf("usage: registry [tls]")
	}
	if len(args) == 1 {
		startTLSRegistry(ts)
		return
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	images := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			user, password, _ := r.BasicAuth()
			if user != registryUser || subtle.ConstantTimeCompare([]byte(password), []byte(registryPassword)) != 1 {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
				return
			}
			if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/nameless/manifests/") && !strings.Contains(r.URL.Path, "sha256:") {
				http.Error(w, `{"errors":[{"code":"DENIED","message":"no name is taken here"}]}`, http.StatusForbidden)
				return
			}
			images.ServeHTTP(w, r)
		}),
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	ts.Defer(func() {
		ts.Check(server.Close())
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			ts.Fatalf("the registry: %v", err)
		}
	})

	addr := listener.Addr().String()
	conf := filepath.Join(ts.Getenv("HOME"), "registries.conf")
	ts.Check(os.WriteFile(conf, fmt.Appendf(nil, "[[registry]]\nlocation = %q\ninsecure = true\n", addr), 0o600))
	// A name without a file is an error for buildah.
	auth := filepath.Join(ts.Getenv("HOME"), "auth.json")
	ts.Check(os.WriteFile(auth, []byte("{}"), 0o600))
	ts.Setenv("CONTAINERS_REGISTRIES_CONF", conf)
	ts.Setenv("REGISTRY_AUTH_FILE", auth)
	ts.Setenv("REGISTRY", addr)
	ts.Setenv("REGISTRY_USER", registryUser)
	ts.Setenv("REGISTRY_PASSWORD", registryPassword)
}

func startTLSRegistry(ts *testscript.TestScript) {
	server := httptest.NewUnstartedServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of who does not like the certificate
	server.StartTLS()
	ts.Defer(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	ts.Check(os.WriteFile(ts.MkAbs("ca.pem"), ca, 0o600))
	addr := server.Listener.Addr().String()
	ts.Setenv("TLS_REGISTRY", addr)
	// The loopback interface is trusted unless something is said about it.
	conf, err := os.OpenFile(ts.Getenv("CONTAINERS_REGISTRIES_CONF"), os.O_APPEND|os.O_WRONLY, 0)
	ts.Check(err)
	_, err = fmt.Fprintf(conf, "\n[[registry]]\nlocation = %q\ninsecure = false\n", addr)
	ts.Check(errors.Join(err, conf.Close()))
}

// store-clean fails if the store has a container, a mounted or unfinished layer
// or anything damaged, or if temporary files were left.
func cmdStoreClean(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: store-clean")
	}
	ts.Check(ts.Exec("store-check"))

	mounts, err := os.ReadFile("/proc/self/mountinfo")
	ts.Check(err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, " "+ts.Getenv("WORK")+"/") {
			ts.Fatalf("a mount was left: %s", line)
		}
	}
	entries, err := os.ReadDir(ts.Getenv("TMPDIR"))
	ts.Check(err)
	for _, entry := range entries {
		ts.Fatalf("a temporary file was left: %s", entry.Name())
	}
}

func scriptEnv(ts *testscript.TestScript) []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "XDG_RUNTIME_DIR", "CONTAINERS_STORAGE_CONF"} {
		env = append(env, name+"="+ts.Getenv(name))
	}
	return env
}

// storeCheck is the program store-check: it opens the store of the configuration
// and prints what is wrong with it. It has to be a process of its own, because an
// ordinary user's store can only be read in that user's namespace.
func storeCheck() {
	unshare.MaybeReexecUsingUserNamespace(false)
	problems, err := checkStore()
	if err != nil {
		problems = append(problems, err.Error())
	}
	for _, problem := range problems {
		fmt.Fprintln(os.Stderr, problem)
	}
	if len(problems) > 0 {
		os.Exit(1)
	}
}

func checkStore() (problems []string, err error) {
	options, err := types.DefaultStoreOptions()
	if err != nil {
		return nil, err
	}
	store, err := storage.GetStore(options)
	if err != nil {
		return nil, err
	}
	defer func() { _, err = store.Shutdown(false) }()

	return storecheck.Problems(store)
}
