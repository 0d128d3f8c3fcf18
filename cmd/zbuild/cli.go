package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/zbuild/zbuild/internal/render"
	"github.com/zbuild/zbuild/runner"
)

const description = `Builds many container images as one graph of stages, with buildah's library: without
a daemon, without root if you like, and straight into the store of podman and buildah.

The command bake can be left out: 'zbuild api worker' is 'zbuild bake api worker'.

Examples:

  zbuild                        build the default targets of zbuild.hcl
  zbuild api worker             build two targets
  zbuild --push                 build, and push when everything has succeeded
  zbuild --set '*.args.V=2'     override an attribute of every target
  zbuild bake --print api       show what a target evaluates to, as JSON
  zbuild bake --explain         say why steps were not taken from the cache
  zbuild watch                  build, and rebuild what each edit affects
  zbuild graph                  show the stages, and which targets share them
  zbuild init                   write a zbuild.hcl for the Dockerfiles that are here
  zbuild list                   list what can be built
  zbuild cache du               show what is cached, and how big it is
  zbuild doctor                 check whether this machine can build

Exit codes:

  0    done
  1    the build failed
  2    the command line, a build file or a Dockerfile is wrong
  125  the engine cannot be used on this machine ('zbuild doctor' says why)
  130  interrupted`

// cli is the command line.
type cli struct {
	Debug       bool        `short:"D" help:"Log in detail, to standard error."`
	ShowVersion versionFlag `name:"version" short:"v" help:"Show the version of zbuild; 'zbuild version' shows more."`
	Engine      engineFlags `embed:"" group:"engine"`

	Diagnostics string `hidden:"" enum:"text,json" default:"text" help:"What --format was called."`

	Bake       bakeCmd       `cmd:"" default:"withargs" help:"Build targets. This is the command if none is named."`
	Watch      watchCmd      `cmd:"" help:"Build targets, and rebuild what each edit affects."`
	Graph      graphCmd      `cmd:"" help:"Show the graph of stages."`
	List       listCmd       `cmd:"" help:"List targets, groups and variables."`
	Validate   validateCmd   `cmd:"" help:"Check the build files."`
	Fmt        fmtCmd        `cmd:"" help:"Format build files."`
	Init       initCmd       `cmd:"" help:"Write a zbuild.hcl for the Dockerfiles, or the Compose file, that are here."`
	Cache      cacheCmd      `cmd:"" help:"Show or remove what builds have cached."`
	Doctor     doctorCmd     `cmd:"" help:"Check whether this machine can build, and what is missing."`
	Completion completionCmd `cmd:"" help:"Print the shell code that completes commands, flags and targets."`
	Version    versionCmd    `cmd:"" help:"Show the versions of zbuild and of the libraries in it."`
}

// engineFlags say which store and helpers to use, by the names that podman and
// buildah have for them.
type engineFlags struct {
	Root            string   `placeholder:"DIR" help:"Where the store keeps images and layers."`
	Runroot         string   `placeholder:"DIR" help:"Where the store keeps its state."`
	StorageDriver   string   `placeholder:"NAME" help:"Storage driver: overlay or vfs. Default: as storage.conf says."`
	StorageOpt      []string `placeholder:"KEY=VALUE" sep:"none" help:"Option of the storage driver. Repeatable."`
	Runtime         string   `placeholder:"NAME" help:"OCI runtime, by name or path. Default: the first that works."`
	Isolation       string   `placeholder:"KIND" enum:"oci,rootless,chroot," default:"" env:"BUILDAH_ISOLATION" help:"How a RUN is isolated: oci, rootless or chroot. Default: the best that works."`
	Authfile        string   `placeholder:"FILE" env:"REGISTRY_AUTH_FILE" help:"Registry credentials. Default: where podman and docker keep theirs."`
	CacheMaxSize    share    `placeholder:"SIZE" env:"ZBUILD_CACHE_MAX_SIZE" default:"20%" help:"How much room cached steps may take after a bake, as a size or a share of the disk: 50GB, 20%, none. The least recently used go first. Default: ${default}."`
	CacheMaxAge     lifetime `placeholder:"AGE" env:"ZBUILD_CACHE_MAX_AGE" default:"30d" help:"How long a cached step, a cache mount or a fetched file may go unused before a bake removes it: 12h, 30d, none. Default: ${default}."`
	SignaturePolicy string   `placeholder:"FILE" help:"Signature policy. Default: the system's policy.json."`
}

// limits are what bounds the cache.
func (f engineFlags) limits() runner.Limits {
	return runner.Limits{MaxAge: time.Duration(f.CacheMaxAge), MaxSize: f.CacheMaxSize.Bytes, MaxShare: f.CacheMaxSize.Percent}
}

// projectFlags say what the project is.
type projectFlags struct {
	Files    []string `short:"f" name:"file" placeholder:"FILE" sep:"none" help:"Build file; '-' is standard input. Repeatable, later ones override earlier ones. Default: zbuild.hcl here or above in the same git repository, else bake's files."`
	Set      []string `placeholder:"TARGET.KEY=VALUE" sep:"none" help:"Override an attribute; TARGET may be a glob. Repeatable, in order."`
	Var      []string `placeholder:"NAME=VALUE" sep:"none" help:"Set a variable of the build file. Repeatable. In order of precedence: --var, --var-file, the environment, --env-file, the project's env-file, the default."`
	VarFiles []string `name:"var-file" placeholder:"FILE" sep:"none" help:"Set variables of the build file from FILE: lines NAME = VALUE in HCL, or a JSON object in a file called *.json. Repeatable, later ones win. Also -var-file."`
	EnvFiles []string `name:"env-file" placeholder:"FILE" sep:"none" help:"Take variables that the environment does not have from FILE: lines NAME=VALUE, as with Compose. A Compose file sees it in place of .env. Repeatable, later ones win."`
	Allow    []string `placeholder:"WHAT" sep:"none" help:"Allow what a build file may not do without being allowed to, such as fs.read=../common. Repeatable."`
}

// reportFlags say how problems are told.
type reportFlags struct {
	Format string `enum:"text,json," default:"text" env:"ZBUILD_DIAGNOSTICS" help:"How to report mistakes in the project: text, or json for editors."`
}

// vars are the values of --var, by name; the last one of a name counts.
func (p projectFlags) vars() (map[string]string, error) {
	vars := make(map[string]string, len(p.Var))
	for _, v := range p.Var {
		if v == "" { // of an empty variable of a script
			continue
		}
		name, value, ok := strings.Cut(v, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--var %s: want NAME=VALUE", v)
		}
		vars[name] = value
	}
	return vars, nil
}

func newParser(c *cli, stdout, stderr io.Writer, options ...kong.Option) (*kong.Kong, error) {
	return kong.New(c, append([]kong.Option{
		kong.Name("zbuild"),
		kong.Description(description),
		kong.Writers(stdout, stderr),
		kong.ConfigureHelp(kong.HelpOptions{
			NoExpandSubcommands: true,
			NoAppDescFormat:     true,
			WrapUpperBound:      100,
		}),
		kong.ExplicitGroups([]kong.Group{{Key: "engine", Title: "Flags for the engine:"}}),
		kong.Vars{"modes": strings.Join(render.Modes(), ", ")},
	}, options...)...)
}
