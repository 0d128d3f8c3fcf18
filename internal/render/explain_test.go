package render

import (
	"bytes"
	"testing"

	"github.com/zbuild/zbuild/runner"
)

func TestExplain(t *testing.T) {
	plan := project()
	s := plan.Steps
	var b bytes.Buffer
	err := Explain(&b, plan, []runner.Explanation{
		{Step: s[1], Reason: runner.ReasonGone},
		{Step: s[3], Reason: runner.ReasonChanged, Changes: []runner.Change{
			{What: "files src", Files: []string{"src/a.go", "src/\x1b[31mb.go"}, More: 3},
			{What: "files assets"},
		}},
		{Step: s[4], Reason: runner.ReasonChanged, Changes: []runner.Change{
			{What: "instruction", Old: "RUN make", New: "RUN make     all     test"},
			{What: "its input (COPY . .)", New: "its input (COPY . .)"},
			{What: "variable V", Old: "V"},
		}},
	}, Style{})
	if err != nil {
		t.Fatal(err)
	}
	b.WriteString("---\n")
	if err := Explain(&b, plan, nil, Style{}); err != nil {
		t.Fatal(err)
	}
	golden(t, "explain.txt", b.Bytes())
}
