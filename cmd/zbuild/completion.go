package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/alecthomas/kong"
	posener "github.com/posener/complete"
	"github.com/willabides/kongplete"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/render"
)

// completionCmd prints a shell's completion code.
type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish,pwsh,powershell" placeholder:"SHELL" help:"bash, zsh, fish or pwsh (also called powershell)."`
}

// Help is shown by 'zbuild completion --help'.
func (completionCmd) Help() string {
	return `Prints code for the shell to read, after which it completes commands, flags, and the targets of the project.

  bash  echo 'source <(zbuild completion bash)' >> ~/.bashrc
  zsh   echo 'source <(zbuild completion zsh)' >> ~/.zshrc
  fish  zbuild completion fish > ~/.config/fish/completions/zbuild.fish
  pwsh  Add-Content $PROFILE 'zbuild completion pwsh | Out-String | Invoke-Expression'`
}

// completionCode is what each shell needs to have 'zbuild' complete itself: the
// shell calls it with the line in COMP_LINE. Where zbuild has nothing to say, as
// after --file, bash and zsh complete names of files.
var completionCode = map[string]string{
	"bash": "complete -o default -C zbuild zbuild\n",
	"zsh":  "autoload -U +X bashcompinit && bashcompinit\ncomplete -o default -C zbuild zbuild\n",
	"fish": `function __complete_zbuild
    set -lx COMP_LINE (commandline -cp)
    test -z (commandline -ct)
    and set COMP_LINE "$COMP_LINE "
    zbuild
end
complete -f -c zbuild -a "(__complete_zbuild)"
`,
	"pwsh":       pwshCode,
	"powershell": pwshCode,
}

// pwshCode is PowerShell's. What it has of the line ends with its last word; spaces
// after that, up to the cursor, are what says that a new word begins.
const pwshCode = `Register-ArgumentCompleter -Native -CommandName zbuild -ScriptBlock {
    param($word, $ast, $cursor)
    $length = $cursor - $ast.Extent.StartOffset
    $before = $env:COMP_LINE
    $env:COMP_LINE = $ast.ToString().PadRight($length).Substring(0, $length)
    try {
        zbuild | ForEach-Object {
            [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_)
        }
    } finally {
        $env:COMP_LINE = $before
    }
}
`

// Run prints.
func (c *completionCmd) Run(a *app) error {
	_, err := fmt.Fprint(a.stdout, completionCode[c.Shell])
	return err
}

// complete completes the line that a shell has put into the environment, if it
// has, and reports whether that was all that there was to do.
func complete(parser *kong.Kong, a *app) bool {
	line, ok := os.LookupEnv("COMP_LINE")
	if !ok {
		return false
	}
	targets := posener.PredictFunc(func(args posener.Args) []string { return a.targetNames(line, args) })
	command, err := kongplete.Command(parser,
		kongplete.WithPredictor("target", targets),
		// Values that are no enums, as others are accepted, too, or refused with a word of their own.
		kongplete.WithPredictor("progress", posener.PredictSet(render.Modes()...)),
		kongplete.WithPredictor("graph", posener.PredictSet(graphFormats()...)),
		kongplete.WithPredictor("call", posener.PredictSet("check", "outline", "targets")),
		kongplete.WithPredictor("list", posener.PredictSet("targets", "variables")),
	)
	if err != nil {
		return true
	}
	// Those of bake, which needs no name.
	command.Args, command.Flags = targets, command.Sub["bake"].GlobalFlags
	c := posener.New(parser.Model.Name, command)
	c.Out = a.stdout
	return c.Complete()
}

// targetNames are the targets and groups of the project that the line is about, as
// far as they are known: mistakes in it are no concern here.
func (a *app) targetNames(line string, args posener.Args) []string {
	if strings.HasPrefix(args.Last, "-") {
		return nil
	}
	var flags projectFlags
	given := map[string]*[]string{ // which files are read, and what names may be made of
		"-f": &flags.Files, "--file": &flags.Files, "--env-file": &flags.EnvFiles,
		"--var": &flags.Var, "--var-file": &flags.VarFiles,
	}
	words := strings.Fields(line)
	for i, word := range words[:max(0, len(words)-1)] {
		name, value, joined := strings.Cut(word, "=")
		values := given[name]
		if values == nil {
			continue
		}
		if !joined {
			value = words[i+1]
		}
		*values = append(*values, value)
	}
	opt, err := a.session(flags, nil, nil, nil)
	if err != nil {
		return nil
	}
	opt.Load.ListOnly, opt.Load.EvaluateOnly, opt.Load.Pipes = true, true, nil
	project, _ := config.Load(context.Background(), opt.Load)
	var names []string
	for _, t := range project.Listed {
		names = append(names, t.Name)
	}
	return names
}
