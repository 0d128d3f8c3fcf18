package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/docker/buildx/util/buildflags"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/session"
	"github.com/zbuild/zbuild/planner"
)

// call asks the Dockerfile frontend about every target, and shows its answers as
// bake --call does.
func (c *bakeCmd) call(a *app, overrides []string, call *buildflags.CallFunc) error {
	method := planner.Method(call.Name)
	if !slices.Contains(planner.Methods(), method) {
		return usage(fmt.Errorf("--call=%s does not exist; there are build, check, outline, targets and subrequests.describe", call.Name))
	}
	if call.Format != "" && call.Format != "json" {
		return usage(fmt.Errorf("--call: there is no format %q; there is json", call.Format))
	}
	opt, err := a.session(c.Project, c.Targets, overrides, nil)
	if err != nil {
		return err
	}
	opt.Load.Calling = true
	if err := enterLate(&opt); err != nil {
		return err
	}
	ctx, stop := interruptible(context.Background(), a.stderr)
	defer stop()
	s := session.New(opt)
	g, answers := s.Call(ctx, method)
	closeErr := s.Close()
	if err := a.ended(g); err != nil {
		return err
	}
	if call.Format == "json" {
		err = writeAnswersJSON(a.stdout, g.Project, method, answers)
	} else {
		err = writeAnswers(a.stdout, g.Project, answers)
	}
	if err := errors.Join(err, closeErr); err != nil {
		return err
	}
	if c.MetadataFile != "" {
		all, err := answersMetadata(method, answers)
		if err != nil {
			return err
		}
		if err := writeMetadata(c.MetadataFile, all); err != nil {
			return err
		}
	}
	return answersError(answers, call.IgnoreStatus)
}

// answersError is the error that answers come to: what cannot be answered is one,
// and so are findings unless they are ignored.
func answersError(answers []planner.Answer, ignore bool) error {
	for i := range answers {
		if answers[i].Err != nil || answers[i].Findings > 0 && !ignore {
			return &exitError{code: exitFailed}
		}
	}
	return nil
}

// writeAnswers writes answers for people.
func writeAnswers(w io.Writer, project *config.Project, answers []planner.Answer) error {
	var b bytes.Buffer
	for i := range answers {
		answer := &answers[i]
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintln(&b, answer.Target)
		if t := project.Targets[answer.Target]; t.Description != "" {
			fmt.Fprintln(&b, t.Description)
		}
		b.WriteByte('\n')
		if answer.Err == nil || answer.Findings > 0 {
			if err := answer.WriteText(&b); err != nil {
				return err
			}
		}
		if answer.Err != nil {
			fmt.Fprintf(&b, "error: %v\n", answer.Err)
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// writeAnswersJSON writes answers with the definitions of the targets, in bake's
// structure.
func writeAnswersJSON(w io.Writer, project *config.Project, method planner.Method, answers []planner.Answer) error {
	var printed bytes.Buffer
	if err := project.Print(&printed); err != nil {
		return err
	}
	var definition struct {
		Group  json.RawMessage            `json:"group,omitempty"`
		Target map[string]json.RawMessage `json:"target"`
	}
	if err := json.Unmarshal(printed.Bytes(), &definition); err != nil {
		return err
	}
	name := string(method)
	if method == planner.MethodCheck {
		name = "check"
	}
	out := struct {
		Group  json.RawMessage           `json:"group,omitempty"`
		Target map[string]map[string]any `json:"target"`
	}{Group: definition.Group, Target: map[string]map[string]any{}}
	for target, build := range definition.Target {
		out.Target[target] = map[string]any{"build": build}
	}
	for i := range answers {
		answer := answers[i].Value
		if err := answers[i].Err; err != nil {
			if fields := fieldsOf(answer); fields != nil {
				fields["error"] = err.Error()
				answer = fields
			} else {
				answer = map[string]any{"error": err.Error()}
			}
		}
		if out.Target[answers[i].Target] != nil {
			out.Target[answers[i].Target][name] = answer
		}
	}
	text, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

// fieldsOf are the fields of what JSON makes an object; nil for anything else.
func fieldsOf(value any) map[string]any {
	text, err := json.Marshal(value)
	if err != nil {
		return nil
	}
	var fields map[string]any
	if json.Unmarshal(text, &fields) != nil {
		return nil
	}
	return fields
}
