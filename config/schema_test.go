package config

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestTableMatchesStruct keeps the table and the struct that hclparser decodes
// into together, in name and in order.
func TestTableMatchesStruct(t *testing.T) {
	var fields []string
	typ := reflect.TypeFor[wireTarget]()
	for i := range typ.NumField() {
		tag, kind, _ := strings.Cut(typ.Field(i).Tag.Get("hcl"), ",")
		if tag == "" || kind == "label" || tag == pullPolicyName {
			continue
		}
		if json, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ","); json != tag && tag != "pull" || typ.Field(i).Tag.Get("cty") != tag {
			t.Errorf("the tags of %s differ", typ.Field(i).Name)
		}
		fields = append(fields, tag)
	}
	table := attributeNames(func(a *attribute) bool { return a.has != nil })
	if !slices.Equal(fields, table) {
		t.Errorf("the struct has %v\nthe table has %v", fields, table)
	}
	for _, a := range attributes {
		if a.rule != mergeNone && (a.has == nil || a.merge == nil) {
			t.Errorf("%s cannot be merged", a.name)
		}
		if len(a.sets) > 0 && a.set == nil {
			t.Errorf("%s cannot be set", a.name)
		}
		if a.use == notYet && a.effect == "" {
			t.Errorf("%s does not say what goes missing", a.name)
		}
	}
}

// bakeAttributes are those of FEATURES 3.2.
const bakeAttributes = `inherits description context contexts dockerfile dockerfile-inline args labels annotations attest
	tags target cache-from cache-to secret ssh platforms output pull no-cache no-cache-filter network shm-size ulimits
	resources call entitlements extra-hosts policy matrix name`

func TestTableIsComplete(t *testing.T) {
	want := strings.Fields(bakeAttributes)
	slices.Sort(want)
	got := attributeNames(bakeAttribute)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("bake has %v\nthe table has %v", want, got)
	}
}

// onlyProject reads zbuild.hcl as that text, and has no other file.
func onlyProject(text []byte) func(string) ([]byte, error) {
	return func(path string) ([]byte, error) {
		if filepath.Base(path) != "zbuild.hcl" {
			return nil, fs.ErrNotExist
		}
		return text, nil
	}
}

// TestExample loads the example as a project, and checks that it shows
// everything that there is.
func TestExample(t *testing.T) {
	text, err := os.ReadFile("../zbuild.hcl.example")
	if err != nil {
		t.Fatal(err)
	}
	for _, evaluateOnly := range []bool{false, true} {
		p, diags := Load(context.Background(), Request{
			Dir: "/project", Files: []string{"zbuild.hcl"}, LocalPlatform: "linux/amd64", EvaluateOnly: evaluateOnly,
			ReadFile: onlyProject(text),
		})
		if len(diags) > 0 {
			t.Fatalf("the default group: %v", diags)
		}
		if want := []string{"api", "worker-mail", "worker-jobs"}; !slices.Equal(p.Requested, want) {
			t.Errorf("requested %v, want %v", p.Requested, want)
		}
		if _, ok := p.Targets["toolchain"]; !ok {
			t.Error("the linked target is missing")
		}
	}
	_, diags := Load(context.Background(), Request{
		Dir: "/project", Files: []string{"zbuild.hcl"}, LocalPlatform: "linux/amd64", Targets: []string{"*"},
		Allow:    []string{"ssh", "security.insecure"},
		ReadFile: onlyProject(text),
	})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	for _, a := range attributes {
		written := regexp.MustCompile(`(?m)^ +` + a.name + `( +=| "| \{)`).Match(text)
		if !written {
			t.Errorf("the example does not show the attribute %s", a.name)
		}
		if a.project && !regexp.MustCompile(`(?m)^`+a.name+`( +=| "| \{)`).Match(text) {
			t.Errorf("the example does not show the project's %s", a.name)
		}
		if a.use != notYet {
			continue
		}
		found := false
		for _, d := range diags {
			found = found || d.Summary == a.name+" is not available yet"
		}
		if !found {
			t.Errorf("nobody is told that %s is not available yet", a.name)
		}
	}
	for _, h := range slices.Concat(bakeBlocks, ourBlocks) {
		if !regexp.MustCompile(`(?m)^` + h.Type + ` ("|\{)`).Match(text) {
			t.Errorf("the example does not show the block %s", h.Type)
		}
	}
	for _, f := range slices.Concat(forms, forms[1].blocks, []*form{settingsForm}) {
		for _, a := range f.fields {
			if !regexp.MustCompile(`(?m)^ +` + a.name + ` += `).Match(text) {
				t.Errorf("the example does not show %s of a %s", a.name, f.name)
			}
		}
	}
}
