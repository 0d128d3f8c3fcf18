package planner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/platforms"
	"github.com/hashicorp/hcl/v2"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/util/suggest"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/beneath"
)

// errNoFile is a file that is known not to be there.
var errNoFile = fs.ErrNotExist

// dockerfileError is a Dockerfile that cannot be read.
type dockerfileError struct{ err error }

func (e *dockerfileError) Error() string { return e.err.Error() }
func (e *dockerfileError) Unwrap() error { return e.err }

// maxInstructions is how many instructions a Dockerfile may have. The frontend
// needs time by the square of their number, and no image has as many layers.
const maxInstructions = 5000

// tooLongError is a Dockerfile with more instructions than that.
type tooLongError struct{ n int }

func (e *tooLongError) Error() string { return fmt.Sprintf("%d instructions are too many", e.n) }

// syntaxError is a Dockerfile that asks for another frontend.
type syntaxError struct {
	ref string
	at  []parser.Range // nil if a build argument asks
}

func (e *syntaxError) Error() string { return "unknown Dockerfile frontend " + e.ref }

// unsupportedError is something that BuildKit has and no engine here can do yet.
type unsupportedError struct {
	feature string
	advice  string
	at      *hcl.Range // nil if nobody knows
}

func (e *unsupportedError) Error() string { return e.feature + " is not available yet" }

// layoutError is a context in an OCI layout that cannot be had.
type layoutError struct {
	context string
	err     error
}

func (e *layoutError) Error() string { return e.err.Error() }

// forbiddenError is a step that asks for a right that its target does not have.
type forbiddenError struct {
	what, entitlement string
	at                *hcl.Range
}

func (e *forbiddenError) Error() string { return e.what + " is not allowed" }

// report notes a diagnostic. It may be called from several goroutines.
func (u *unit) report(d *hcl.Diagnostic) {
	u.diagMu.Lock()
	defer u.diagMu.Unlock()
	u.diags = append(u.diags, d)
	if d.Severity == hcl.DiagError {
		u.failed = true
	}
}

func (u *unit) errorf(at *hcl.Range, summary, detail string, args ...any) {
	u.report(&hcl.Diagnostic{Severity: hcl.DiagError, Subject: at, Summary: summary, Detail: fmt.Sprintf(detail, args...)})
}

// reportPanic reports a panic of the frontend. It is to be deferred.
func (u *unit) reportPanic() {
	if p := recover(); p != nil {
		u.errorf(u.cfg.At("dockerfile"), "The Dockerfile frontend failed",
			"This is a bug, not your mistake: %v. Please report it, with %s.", p, u.name)
	}
}

// contextRange is where a named context is written.
func (u *unit) contextRange(name string) *hcl.Range {
	for _, key := range []string{"contexts." + name, "contexts"} {
		if at, ok := u.cfg.Ranges[key]; ok {
			return &at
		}
	}
	return u.cfg.At("contexts")
}

// reportError turns an error of a conversion into diagnostics.
func (r *run) reportError(err error) {
	u := r.u
	if u.ctx.Err() != nil {
		u.failed = true // Build says so once
		return
	}
	var (
		noDockerfile *dockerfileError
		tooLong      *tooLongError
		syntax       *syntaxError
		unsupported  *unsupportedError
	)
	isMissing := r.reportMissing(err)
	var many remoteErrors
	var one *remoteError
	var forbidden *forbiddenError
	var layout *layoutError
	var generator *generatorError
	switch {
	case errors.As(err, &generator):
		r.reportGenerator(generator)
	case errors.As(err, &layout):
		u.errorf(u.contextRange(layout.context), "Cannot use the OCI layout", "%s", sentence(upperFirst(layout.Error())))
	case errors.As(err, &forbidden):
		u.errorf(forbidden.at, forbidden.Error(), "The target %s needs entitlements = [%q], and the build --allow %s.",
			u.cfg.Name, forbidden.entitlement, forbidden.entitlement)
	case isMissing:
	case errors.As(err, &many):
		u.reportRemotes(many)
	case errors.As(err, &one):
		u.reportRemotes([]*remoteError{one})
	case errors.As(err, &noDockerfile):
		u.reportDockerfile(noDockerfile.err)
	case errors.As(err, &tooLong):
		u.errorf(u.cfg.At("dockerfile"), "Dockerfile too long", "%s has %d instructions; %d are the most.", u.name, tooLong.n, maxInstructions)
	case errors.As(err, &syntax):
		at := u.cfg.At("args")
		if syntax.at != nil {
			at = u.locationRange(syntax.at)
		}
		u.errorf(at, "Other Dockerfile frontends are not available yet",
			"%s is not docker/dockerfile, the only frontend there is.", syntax.ref)
	case errors.As(err, &unsupported):
		at := unsupported.at
		if at == nil {
			at = u.errorRange(err)
		}
		u.errorf(at, upperFirst(unsupported.feature)+" is not available yet", "%s", cmp.Or(unsupported.advice, "A later release will have it."))
	case u.cfg.Stage != "" && r.outline() != nil && r.outline().target(u.cfg) < 0:
		u.errorf(u.cfg.At("target"), "Unknown stage", "%s has no stage %q.%s", u.name, u.cfg.Stage,
			cmp.Or(hint(u.cfg.Stage, "Its stages are ", r.outline().names()), " None of its stages has a name."))
	default:
		u.reportFrontend(err)
	}
}

// parsePrefix is what a range says better.
var parsePrefix = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(failed to [a-z ]+: )?dockerfile parse error( on line \d+)?: `)
})

// reportFrontend reports what the frontend has to say, in its words.
func (u *unit) reportFrontend(err error) {
	summary := "Invalid Dockerfile"
	at := u.errorRange(err)
	if at == nil {
		summary, at = "Cannot plan the target", u.cfg.At("dockerfile")
	}
	u.errorf(at, summary, "%s", sentence(parsePrefix().ReplaceAllString(err.Error(), "")))
}

// reportDockerfile reports a Dockerfile that is not to be had.
func (u *unit) reportDockerfile(err error) {
	at := u.cfg.At("dockerfile")
	if errors.Is(err, fs.ErrNotExist) {
		u.errorf(at, "Dockerfile not found", "There is no file %s.%s", u.name,
			cmp.Or(u.containerfileHint(), " The attribute dockerfile says where it is, relative to the context."))
		return
	}
	u.errorf(at, "Cannot read the Dockerfile", "%s: %s.", u.name, reason(err))
}

// containerfileHint names the Containerfile that is where the Dockerfile is not:
// podman and buildah would take it.
func (u *unit) containerfileHint() string {
	if !filepath.IsAbs(u.cfg.Dockerfile) || u.cfg.Context.Kind != config.ContextDir {
		return ""
	}
	file := filepath.Join(filepath.Dir(u.cfg.Dockerfile), "Containerfile")
	rel, err := filepath.Rel(u.cfg.Context.Value, file)
	if err != nil {
		return ""
	}
	if _, err := u.opt.Stat(file); err != nil {
		return ""
	}
	return fmt.Sprintf(" There is a Containerfile: write dockerfile = %q.", filepath.ToSlash(rel))
}

// reportMissing reports every image that the conversion did not get, and says
// whether err is one of these errors.
func (r *run) reportMissing(err error) bool {
	u := r.u
	for _, e := range r.missing.errs {
		var link *linkError
		var img *imageError
		switch {
		case errors.As(e, &link):
			at, _ := r.mention(link.ref)
			if at == nil {
				at = u.contextRange(link.context)
			}
			u.errorf(at, "Context lacks a platform", "%s.", upperFirst(link.Error()))
		case errors.As(e, &img):
			at, name := r.mention(img.ref)
			if at == nil {
				at = r.imageContext(img.ref)
			}
			detail := fmt.Sprintf("%s for %s: %s", cmp.Or(name, img.ref), platforms.FormatAll(img.platform), sentence(img.Error()))
			if o := r.outline(); o != nil && name != "" {
				detail += hint(name, "", o.names())
			}
			u.report(&hcl.Diagnostic{
				Severity: hcl.DiagError, Subject: at, Summary: "Cannot get a base image", Detail: detail, Extra: CauseImage,
			})
		}
	}
	var link *linkError
	var img *imageError
	return errors.As(err, &link) || errors.As(err, &img)
}

// mention is the first place of the Dockerfile that names an image, and the name
// it has there.
func (r *run) mention(ref string) (*hcl.Range, string) {
	if o := r.outline(); o != nil {
		for _, n := range o.mentions(ref) {
			if at := r.u.locationRange(n.location); at != nil {
				return at, n.name
			}
		}
	}
	return nil, ""
}

// imageContext is the place of the context that names an image.
func (r *run) imageContext(ref string) *hcl.Range {
	for _, name := range slices.Sorted(maps.Keys(r.u.cfg.Contexts)) {
		if c := r.u.cfg.Contexts[name]; normalRef(imageRef(c)) == ref {
			return r.u.contextRange(name)
		}
	}
	return r.u.cfg.At("dockerfile")
}

// Finding is the Extra of a diagnostic about something that the frontend's linter
// has found.
type Finding struct {
	// Rule is the name of the rule, Description what it wants, URL where it is
	// explained, Message what is not as it wants.
	Rule, Description, URL, Message string
	// Lines are the first and the last lines of the places, counted from 1.
	Lines [][2]int
}

// lintWarning is what the frontend's linter has found.
func (u *unit) lintWarning(rule, description, url, msg string, location []parser.Range) *hcl.Diagnostic {
	at := u.locationRange(location)
	if at == nil {
		at = u.cfg.At("dockerfile")
	}
	detail := sentence(description) + " (" + rule
	if url != "" {
		detail += ", " + url
	}
	found := &Finding{Rule: rule, Description: description, URL: url, Message: msg}
	for _, r := range location {
		found.Lines = append(found.Lines, [2]int{r.Start.Line, r.End.Line})
	}
	return &hcl.Diagnostic{Severity: hcl.DiagWarning, Subject: at, Summary: msg, Detail: detail + ")", Extra: found}
}

// errorRange is the innermost place of the Dockerfile that an error is about.
func (u *unit) errorRange(err error) *hcl.Range {
	var le *parser.LocationError
	if errors.As(err, &le) {
		for _, l := range le.Locations {
			if at := u.locationRange(l); at != nil {
				return at
			}
		}
	}
	return nil
}

// locationRange is a place of the unit's Dockerfile. It is nil if there is none.
func (u *unit) locationRange(location []parser.Range) *hcl.Range {
	first, last := 0, 0
	for _, l := range location {
		if first == 0 || l.Start.Line < first {
			first = l.Start.Line
		}
		last = max(last, l.Start.Line, l.End.Line)
	}
	return u.src.lines(first, last)
}

// reason is an error without the path that the message around it names.
func reason(err error) string {
	var pe *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "it does not exist"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied"
	case errors.Is(err, beneath.ErrDirectory), errors.Is(err, beneath.ErrNotRegular), errors.Is(err, errTooLarge):
		errors.As(err, &pe)
		return "it " + pe.Err.Error()
	case errors.As(err, &pe):
		return pe.Err.Error()
	}
	return err.Error()
}

func upperFirst(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + s[n:]
}

// sentence makes a message end like one.
func sentence(s string) string {
	s = strings.TrimSpace(s)
	if s == "" || strings.HasSuffix(s, ".") || strings.HasSuffix(s, "!") || strings.HasSuffix(s, "?") {
		return s
	}
	return s + "."
}

// hint says which of the candidates may have been meant, or else lists them
// after the given words.
func hint(name, words string, candidates []string) string {
	if match, ok := suggest.Search(name, candidates, false); ok {
		return fmt.Sprintf(" Did you mean %q?", match)
	}
	const most = 20
	if words == "" || len(candidates) == 0 || len(candidates) > most {
		return ""
	}
	return " " + words + strings.Join(candidates, ", ") + "."
}

// sortDiagnostics puts diagnostics into the order of the places they are about,
// and leaves out repetitions.
func sortDiagnostics(diags hcl.Diagnostics) hcl.Diagnostics {
	compare := func(a, b *hcl.Diagnostic) int {
		var x, y hcl.Range
		if a.Subject != nil {
			x = *a.Subject
		}
		if b.Subject != nil {
			y = *b.Subject
		}
		return cmp.Or(
			strings.Compare(x.Filename, y.Filename),
			cmp.Compare(x.Start.Byte, y.Start.Byte),
			cmp.Compare(x.End.Byte, y.End.Byte),
			cmp.Compare(a.Severity, b.Severity),
			strings.Compare(a.Summary, b.Summary),
			strings.Compare(a.Detail, b.Detail),
		)
	}
	slices.SortStableFunc(diags, compare)
	return slices.CompactFunc(diags, func(a, b *hcl.Diagnostic) bool { return compare(a, b) == 0 })
}

func canceled(ctx context.Context) *hcl.Diagnostic {
	return &hcl.Diagnostic{
		Severity: hcl.DiagError, Summary: "Planning was interrupted",
		Detail: sentence(context.Cause(ctx).Error()), Extra: CauseCanceled,
	}
}
