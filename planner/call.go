package planner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/hcl/v2"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/subrequests"
	"github.com/moby/buildkit/frontend/subrequests/lint"
	suboutline "github.com/moby/buildkit/frontend/subrequests/outline"
	subtargets "github.com/moby/buildkit/frontend/subrequests/targets"

	"github.com/zbuild/zbuild/config"
)

// Method is a question that BuildKit's Dockerfile frontend answers instead of
// building: bake's --call.
type Method string

// The methods, by the names that the frontend's clients have for them.
const (
	MethodCheck    Method = "lint"                 // which of its rules the Dockerfile does not follow
	MethodOutline  Method = "outline"              // which arguments, secrets and so on a stage takes
	MethodTargets  Method = "targets"              // which stages there are
	MethodDescribe Method = "subrequests.describe" // which questions there are
)

// Methods are all methods.
func Methods() []Method {
	return []Method{MethodCheck, MethodOutline, MethodTargets, MethodDescribe}
}

// Answer is what the frontend says of one target.
type Answer struct {
	Target string
	// Value is the answer in the frontend's own structure, to be shown as JSON.
	Value any
	// Findings is how many rules a check found broken; Err is why the Dockerfile
	// cannot be built at all, as the frontend puts it.
	Findings int
	Err      error

	text func(io.Writer) error
}

// WriteText writes the answer as the frontend shows it to people.
func (a *Answer) WriteText(w io.Writer) error { return a.text(w) }

// Call asks the frontend about some targets of a project, each what methods says,
// and plans no more than that takes. The answers are in the order of the targets'
// names.
//
// The plan has no steps, only the Sources that the diagnostics point into and the
// Files that were read. The diagnostics are about what kept the frontend from being asked, such as a
// Dockerfile that is not there; what it has to say of a Dockerfile is an answer.
func Call(ctx context.Context, project *config.Project, methods map[string]Method, opt Options) ([]Answer, *Plan, hcl.Diagnostics) {
	s := newSession(ctx, project, opt)
	units, diags := s.units()
	plan := &Plan{Sources: map[string][]byte{}}
	maps.Copy(plan.Sources, project.Sources)
	if diags.HasErrors() {
		return nil, plan, diags
	}
	some, linked := asked(units, methods)
	s.planLinked(linked)
	var answers []Answer
	for _, u := range units {
		if !slices.Contains(some, u) && !slices.Contains(linked, u) {
			continue
		}
		if method := methods[u.cfg.Name]; method != "" {
			if a, ok := u.ask(method); ok {
				answers = append(answers, a)
			}
		}
		diags = append(diags, u.diags...)
		if u.src != nil {
			plan.Sources[u.name] = u.src.data
		}
	}
	if ctx.Err() != nil {
		diags = append(diags, canceled(ctx))
	}
	plan.Files = s.files.list()
	return answers, plan, sortDiagnostics(diags)
}

// asked are the units that there is a method for, and those that they are made of:
// a target that is another one's context has to be planned, as its image says what
// the other starts from.
func asked(units []*unit, methods map[string]Method) (some, linked []*unit) {
	needed := map[*unit]bool{}
	var need func(*unit)
	need = func(u *unit) {
		for _, to := range u.after {
			if !needed[to] {
				needed[to] = true
				need(to)
			}
		}
	}
	for _, u := range units {
		if methods[u.cfg.Name] != "" {
			some = append(some, u)
			need(u)
		}
	}
	for _, u := range units {
		if needed[u] {
			linked = append(linked, u)
		}
	}
	return some, linked
}

// planLinked plans the targets that are contexts of others, and says nothing of
// their Dockerfiles: that is what they are asked for.
func (s *session) planLinked(units []*unit) {
	s.planAll(units)
	for _, u := range units {
		u.diags = slices.DeleteFunc(u.diags, func(d *hcl.Diagnostic) bool { return d.Severity != hcl.DiagError })
	}
}

// ask asks the frontend about the target. Of several platforms it is the first,
// as it is for buildx.
func (u *unit) ask(method Method) (a Answer, ok bool) {
	defer u.reportPanic()
	a.Target = u.cfg.Name
	if u.failed {
		return a, false
	}
	opts := u.frontendOpts()
	for _, dep := range u.after {
		u.failed = u.failed || dep.failed
	}
	if u.failed || u.ctx.Err() != nil {
		return a, false
	}
	runs := u.newRuns()
	if len(runs) == 0 {
		return a, false
	}
	r := runs[0]
	o, err := r.open(opts)
	if err != nil {
		r.reportError(err)
		return a, false
	}
	if !r.implicit {
		o.opt.TargetPlatform = &r.platform
	}
	a.answer(u.ctx, method, o)
	return a, true
}

func (a *Answer) answer(ctx context.Context, method Method, o *opened) {
	switch method {
	case MethodCheck:
		result, err := dockerfile2llb.DockerfileLint(ctx, o.source.Data, o.opt)
		if err != nil {
			a.Err = err
			return
		}
		a.check(result)
	case MethodOutline:
		result, err := dockerfile2llb.Dockerfile2Outline(ctx, o.source.Data, o.opt)
		a.shown(result, err, suboutline.PrintOutline)
	case MethodTargets:
		result, err := listTargets(ctx, o.source.Data)
		a.shown(result, err, subtargets.PrintTargets)
	case MethodDescribe:
		a.shown([]subrequests.Request{
			suboutline.SubrequestsOutlineDefinition, subtargets.SubrequestsTargetsDefinition,
			lint.SubrequestLintDefinition, subrequests.SubrequestsDescribeDefinition,
		}, nil, subrequests.PrintDescribe)
	default:
		a.Err = fmt.Errorf("there is no method %q", method)
	}
}

// checkComment begins a comment that is for the linter.
var checkComment = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?mi)^([ \t]*#[ \t]*)check([ \t]*=)`) })

// listTargets has BuildKit list the stages. As it does so it has no linter, and comes
// to grief over comments that are for one: they have another name meanwhile, which
// nobody knows.
func listTargets(ctx context.Context, data []byte) (*subtargets.List, error) {
	list, err := dockerfile2llb.ListTargets(ctx, checkComment().ReplaceAll(data, []byte("${1}xheck$2")))
	if err == nil {
		list.Sources = [][]byte{data}
	}
	return list, err
}

// shown is an answer that BuildKit shows from its JSON.
func (a *Answer) shown(value any, err error, show func([]byte, io.Writer) error) {
	a.Value, a.Err = value, err
	a.text = func(w io.Writer) error {
		data, err := json.Marshal(value)
		if err != nil {
			return err
		}
		return show(data, w)
	}
}

func (a *Answer) check(result *lint.LintResults) {
	a.Value, a.Findings = result, len(result.Warnings)
	a.text = func(w io.Writer) error {
		switch a.Findings {
		case 0:
			if a.Err == nil {
				fmt.Fprintln(w, "Check complete, no warnings found.")
			}
		case 1:
			fmt.Fprintln(w, "Check complete, 1 warning has been found!")
		default:
			fmt.Fprintf(w, "Check complete, %d warnings have been found!\n", a.Findings)
		}
		return result.PrintTo(w, nil)
	}
	if result.Error == nil {
		return
	}
	var b bytes.Buffer
	result.PrintErrorTo(&b, nil)
	a.Err = errors.New(strings.TrimRight(b.String(), "\n"))
}
