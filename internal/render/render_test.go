package render

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/hcl/v2"
	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/zbuild/zbuild/internal/event"
	"github.com/zbuild/zbuild/planner"
	"github.com/zbuild/zbuild/runner"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s is different (-want +got); -update rewrites it:\n%s", path, diff)
	}
}

const dockerfile = `FROM busybox AS base
RUN echo one

FROM base AS build
COPY . .
RUN make \
    all \
    test
# the end
CMD ["/bin/app"]
`

var amd64 = ocispecs.Platform{OS: "linux", Architecture: "amd64"}

// project is a plan of two targets that share a base stage.
func project() *planner.Plan {
	at := func(first, last int) *hcl.Range {
		return &hcl.Range{
			Filename: "/src/Dockerfile",
			Start:    hcl.Pos{Line: first, Column: 1},
			End:      hcl.Pos{Line: last, Column: 20},
		}
	}
	step := func(name string, at *hcl.Range, inputs ...*planner.Step) *planner.Step {
		s := &planner.Step{ID: digest.FromString(name), Name: name, Location: at}
		for _, in := range inputs {
			s.Inputs = append(s.Inputs, planner.Input{Step: in})
		}
		return s
	}
	from := step("FROM busybox", at(1, 1))
	from.Image = &planner.BaseImage{Ref: "docker.io/library/busybox:latest"}
	one := step("RUN echo one", at(2, 2), from)
	local := step("local", nil)
	local.Local = &planner.Local{Dir: "/src/app"}
	copied := step("COPY . .", at(5, 5), one, local)
	made := step("RUN make     all     test", at(6, 8), copied)
	base := &planner.Stage{
		Name: "base", Platform: amd64,
		Steps: []*planner.Step{from, one}, Targets: []string{"api", "web"},
	}
	build := &planner.Stage{
		Name: "build", Platform: amd64,
		Steps: []*planner.Step{local, copied, made}, Targets: []string{"api"},
	}
	for _, s := range base.Steps {
		s.Stage = base
	}
	for _, s := range build.Steps {
		s.Stage = build
	}
	return &planner.Plan{
		Steps:   []*planner.Step{from, one, local, copied, made},
		Stages:  []*planner.Stage{base, build},
		Targets: []*planner.Target{{Name: "api", Requested: true}, {Name: "web", Requested: true}},
		Sources: map[string][]byte{"/src/Dockerfile": []byte(dockerfile)},
	}
}

var start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func after(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }

// recorded is a build in which a RUN is retried and fails.
func recorded(plan *planner.Plan) []event.Event {
	s := plan.Steps
	failure := &runner.StepError{Step: s[4], Err: &runner.ExitError{Code: 2}, Output: []string{"make: *** no rule"}}
	return []event.Event{
		event.TaskStarted{ID: "resolve busybox", Name: "resolve docker.io/library/busybox:latest", Time: after(0)},
		event.TaskDone{ID: "resolve busybox", Notes: []string{"sha256:0123"}, Time: after(300)},
		event.BuildStarted{ID: "b1", Plan: plan, Time: after(300)},
		event.StepStarted{Step: s[0], Time: after(310)},
		event.StepDone{Step: s[0], Cached: true, Time: after(311)},
		event.StepStarted{Step: s[1], Time: after(320)},
		event.StepOutput{Step: s[1], Stream: 1, Data: []byte("one\ntw"), Time: after(400)},
		event.StepOutput{Step: s[1], Stream: 1, Data: []byte("o\n"), Time: after(500)},
		event.StepDone{Step: s[1], Time: after(1320)},
		event.StepStarted{Step: s[2], Time: after(1330)},
		event.StepDone{Step: s[2], Time: after(1430)},
		event.StepStarted{Step: s[3], Time: after(1440)},
		event.StepDone{Step: s[3], Time: after(1640)},
		event.StepStarted{Step: s[4], Time: after(1650)},
		event.StepOutput{Step: s[4], Stream: 2, Data: []byte("no end of line"), Time: after(1700)},
		event.Warning{Step: s[4], Text: "slow", Time: after(1710)},
		event.StepRetry{Step: s[4], Attempt: 2, Of: 3, Delay: 3 * time.Second, Err: failure, Time: after(1750)},
		event.StepOutput{Step: s[4], Stream: 2, Data: []byte("make: *** no rule\n"), Time: after(4800)},
		event.StepDone{Step: s[4], Err: failure, Time: after(4850)},
		event.Warning{Text: "nobody uses ARG x", Time: after(4860)},
		event.TaskStarted{ID: "export web", Name: "exporting web", Time: after(4870)},
		event.BuildDone{ID: "b1", Err: failure, Time: after(4900)},
	}
}

func TestPlain(t *testing.T) {
	var out bytes.Buffer
	p, err := NewProgress(&out, ModePlain, Style{Dir: "/src"})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range recorded(project()) {
		p.Emit(e)
	}
	for range 2 { // closing twice is safe
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	p.Emit(event.Warning{Text: "too late"})
	golden(t, "plain.txt", out.Bytes())
}

func TestTranslate(t *testing.T) {
	var out bytes.Buffer
	tr := newTranslator(Style{Dir: "/src"})
	for _, e := range recorded(project()) {
		ss := new(client.SolveStatus)
		tr.add(ss, e)
		data, err := json.Marshal(ss)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%T\n\t%s\n", e, data)
	}
	golden(t, "translate.txt", out.Bytes())
}

func TestRawJSON(t *testing.T) {
	var out bytes.Buffer
	p, err := NewProgress(&out, ModeRawJSON, Style{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range recorded(project()) {
		p.Emit(e)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for dec := json.NewDecoder(&out); dec.More(); {
		var ss client.SolveStatus
		if err := dec.Decode(&ss); err != nil {
			t.Fatal(err)
		}
		for _, v := range ss.Vertexes {
			names[v.Name] = true
		}
	}
	if want := "[base (api, web) 2/2] RUN echo one"; !names[want] {
		t.Errorf("no vertex %q among %v", want, names)
	}
}

func TestSilent(t *testing.T) {
	for _, mode := range []Mode{ModeQuiet, ModeNone} {
		var out bytes.Buffer
		p, err := NewProgress(&out, mode, Style{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range recorded(project()) {
			p.Emit(e)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		if out.Len() > 0 {
			t.Errorf("mode %s wrote %q", mode, out.String())
		}
	}
}

func TestModeErrors(t *testing.T) {
	for mode, want := range map[Mode]string{
		"tty":   `progress "tty" needs a terminal; use "plain"`,
		"loud":  `progress "loud" does not exist; there are auto, none, plain, quiet, rawjson, tty`,
		"auto ": `progress "auto " does not exist; there are auto, none, plain, quiet, rawjson, tty`,
	} {
		_, err := NewProgress(new(bytes.Buffer), mode, Style{})
		if err == nil || err.Error() != want {
			t.Errorf("NewProgress(%q): %v, want %s", mode, err, want)
		}
	}
}

// A process that prints without end is not shown without end, and what is left
// out is counted.
func TestChatty(t *testing.T) {
	plan := project()
	step := plan.Steps[4]
	for _, mode := range []Mode{ModePlain, ModeTTY, ModeRawJSON} {
		l := newLimiter(mode)
		chunk := []byte(strings.Repeat(strings.Repeat("y", 63)+"\n", 512))
		var queue []event.Event
		shown := 0
		drain := func() {
			for _, e := range queue {
				shown += len(e.(event.StepOutput).Data)
			}
			queue, l.pending = nil, 0
		}
		const chunks = 4000 // 131 MB in 40 seconds
		for i := range chunks {
			queue = l.add(queue, event.StepOutput{Step: step, Stream: 1, Data: chunk, Time: after(10 * i)})
			if l.pending > maxPending {
				t.Fatalf("%s: %d bytes are pending", mode, l.pending)
			}
			if i%10 == 0 {
				drain()
			}
		}
		drain()
		all := chunks * len(chunk)
		limit := map[Mode]int{ModePlain: 13 << 20, ModeTTY: 2200 << 10, ModeRawJSON: all}[mode]
		if shown > limit || shown < outputBurst {
			t.Errorf("%s: %d of %d bytes shown, want at most %d", mode, shown, all, limit)
		}
		// One more that cannot be shown, so that something is owed at the end.
		big := bytes.Repeat(chunk, 400)
		queue = l.add(nil, event.StepOutput{Step: step, Stream: 1, Data: big, Time: after(40000)})
		queue = l.add(queue, event.StepDone{Step: step, Time: after(40000)})
		note := false
		for _, e := range queue {
			out, ok := e.(event.StepOutput)
			note = note || ok && strings.Contains(string(out.Data), "of output left out")
		}
		if !note {
			t.Errorf("%s: does not say what was left out", mode)
		}
		if _, ok := queue[len(queue)-1].(event.StepDone); !ok || len(l.steps) > 0 {
			t.Errorf("%s: the end is not the end", mode)
		}
	}
}

// What is left out of many small pieces is said now and then, not each time.
func TestChattyInSmallPieces(t *testing.T) {
	step := project().Steps[4]
	for _, mode := range []Mode{ModePlain, ModeTTY} {
		l := newLimiter(mode)
		notes, shown := 0, 0
		const lines = 1_000_000 // 20 MB in 10 seconds
		for i := range lines {
			queue := l.add(nil, event.StepOutput{Step: step, Stream: 1, Data: []byte("a line of 20 letters\n"), Time: start.Add(time.Duration(i) * 10 * time.Microsecond)})
			l.pending = 0
			for _, e := range queue {
				if data := e.(event.StepOutput).Data; bytes.Contains(data, []byte("left out")) {
					notes++
				} else {
					shown += len(data)
				}
			}
		}
		if notes == 0 || notes > 12 {
			t.Errorf("%s: %d notes in 10 seconds", mode, notes)
		}
		if shown < outputBurst || shown > outputBurst+10*plainRefill+1000 {
			t.Errorf("%s: %d bytes shown", mode, shown)
		}
	}
}

// A display that does not read holds nobody up, and memory neither.
func TestStoppedTerminal(t *testing.T) {
	stopped := &blocked{release: make(chan struct{})}
	p, err := NewProgress(stopped, ModeRawJSON, Style{})
	if err != nil {
		t.Fatal(err)
	}
	plan := project()
	step := plan.Steps[1]
	p.Emit(event.BuildStarted{Plan: plan})
	p.Emit(event.StepStarted{Step: step, Time: start})
	chunk := bytes.Repeat([]byte("line of text\n"), 5000)
	for i := range 1000 {
		p.Emit(event.StepOutput{Step: step, Stream: 1, Data: chunk, Time: after(i)})
	}
	p.mu.Lock()
	if p.limit.pending > maxPending {
		t.Errorf("%d bytes are pending", p.limit.pending)
	}
	p.mu.Unlock()
	p.Emit(event.StepDone{Step: step, Time: after(2000)})
	close(stopped.release)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

type blocked struct{ release chan struct{} }

func (b *blocked) Write(p []byte) (int, error) {
	<-b.release
	return len(p), nil
}

func TestLabels(t *testing.T) {
	stage := func(name string, targets ...string) *planner.Stage {
		s := &planner.Stage{Name: name, Platform: amd64, Targets: targets}
		s.Steps = []*planner.Step{{Name: "RUN x", Stage: s, Location: &hcl.Range{}}}
		return s
	}
	many := make([]string, 20)
	for i := range many {
		many[i] = fmt.Sprintf("target%02d", i)
	}
	arm := stage("base", "api")
	arm.Platform.Architecture = "arm64"
	for _, c := range []struct {
		stages []*planner.Stage
		want   string
	}{
		{[]*planner.Stage{stage("build", "api")}, "[api build 1/1] RUN x"},
		{[]*planner.Stage{stage("api", "api")}, "[api 1/1] RUN x"},
		{[]*planner.Stage{stage("stage-0", "api")}, "[api 1/1] RUN x"},
		{[]*planner.Stage{stage("stage-0", "api"), stage("stage-1", "api")}, "[api stage-0 1/1] RUN x"},
		{[]*planner.Stage{stage("base", "api", "web")}, "[base (api, web) 1/1] RUN x"},
		{[]*planner.Stage{stage("stage-0", "api", "web")}, "[api, web 1/1] RUN x"},
		{[]*planner.Stage{stage("stage-0", "api", "web"), stage("x", "web")}, "[stage-0 (api, web) 1/1] RUN x"},
		{[]*planner.Stage{stage("base", many...)}, "[base (20 targets) 1/1] RUN x"},
		{[]*planner.Stage{stage("base", "api"), arm}, "[linux/amd64 api base 1/1] RUN x"},
		{[]*planner.Stage{stage("base")}, "[base 1/1] RUN x"},
	} {
		plan := &planner.Plan{Stages: c.stages}
		if got := newLabels(plan, Style{}).name(c.stages[0].Steps[0]); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
	if got := newLabels(nil, Style{}).name(&planner.Step{Name: "RUN\ta\n\nb"}); got != "RUN a b" {
		t.Errorf("a step without a stage is called %q", got)
	}
}

// A step that several stages share belongs to the targets of all of them.
func TestSharedStep(t *testing.T) {
	shared := &planner.Step{Name: "RUN x", Location: &hcl.Range{}}
	a := &planner.Stage{Name: "build", Platform: amd64, Targets: []string{"web"}, Steps: []*planner.Step{shared}}
	b := &planner.Stage{Name: "build", Platform: amd64, Targets: []string{"api"}, Steps: []*planner.Step{shared}}
	shared.Stage = a
	plan := &planner.Plan{
		Stages:  []*planner.Stage{a, b},
		Targets: []*planner.Target{{Name: "api", Requested: true}, {Name: "web"}},
	}
	l := newLabels(plan, Style{})
	if got, want := l.name(shared), "[build (api, web) 1/1] RUN x"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := l.affected(shared); !cmp.Equal(got, []string{"api"}) {
		t.Errorf("affected: %v", got)
	}
}

func TestSummary(t *testing.T) {
	image := func(id string, layers int, size int64) *runner.Image {
		return &runner.Image{ID: digest.FromString(id), Layers: layers, Size: size}
	}
	list := image("list", 0, 25_000_000)
	list.Index = true
	result := &runner.Result{
		Targets: []runner.TargetResult{
			{Name: "api", Image: image("api", 4, 12_345_678), Tags: []string{"localhost/api:dev", "reg/api:1"}, Pushed: []string{"reg/api:1"}},
			{Name: "multi", Image: list, Pushed: []string{"reg/multi:1"}, Platforms: []*runner.Image{list, list}},
			{Name: "check"},
		},
		Ran: 3, Cached: 12, Duration: 2100 * time.Millisecond,
	}
	var out bytes.Buffer
	if err := Summary(&out, result, Style{}); err != nil {
		t.Fatal(err)
	}
	golden(t, "summary.txt", out.Bytes())
}

func TestForeign(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                         "plain",
		"\x1b[1;31mred\x1b[0m":          "red",
		"\x1b]0;title\x07text":          "text",
		"\x1b]8;;http://x\x1b\\link":    "link",
		"cut \x1b[":                     "cut ",
		"a\tb\rc\x00d\x7f":              "a\tbcd",
		"\u009b31mc1":                   "31mc1",
		"bad \xff utf-8":                "bad \ufffd utf-8",
		strings.Repeat("é", maxColumns): strings.Repeat("é", maxColumns),
		strings.Repeat("é", maxColumns) + ": disk full": strings.Repeat("é", maxColumns-keepEnd) + "…" +
			strings.Repeat("é", keepEnd-len(": disk full")) + ": disk full",
	} {
		if got := foreign(in); got != want {
			t.Errorf("foreign(%q) = %q, want %q", in, got, want)
		}
	}
}
