package config

import (
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// targetField is the field of Target that an attribute becomes.
var targetField = map[string]string{
	"description": "Description", "context": "Context", "contexts": "Contexts", "dockerfile": "Dockerfile",
	"dockerfile-inline": "DockerfileInline", "args": "Args", "labels": "Labels", "tags": "Tags", "target": "Stage",
	"secret": "Secrets", "platforms": "Platforms", "output": "Outputs", "pull": "Pull", "no-cache": "NoCache",
	"network": "Network", "no-cache-filter": "NoCacheFilter", "shm-size": "ShmSize", "ulimits": "Ulimits",
	"extra-hosts": "ExtraHosts", "cache-mount": "CacheMounts", "retries": "Retries", "retry-delay": "RetryDelay",
	"default-registry": "DefaultRegistry", "format": "Format", "squash": "Squash", "depends-on": "DependsOn",
	"watch": "Watch", "attest": "Attest", "annotations": "Outputs" /* as attributes of outputs */, "cache-from": "CacheFrom",
	"cache-to": "CacheTo", "ssh": "SSH", "resources": "Resources", "entitlements": "Entitlements", "call": "Call",
	"policy": "Policy",
}

// TestEveryAttributeIsRead fails when an attribute is decoded for the build and
// no room outside of this one looks at what it became.
func TestEveryAttributeIsRead(t *testing.T) {
	var code strings.Builder
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			if name := entry.Name(); name == "config" || name == "test" || name == "testdata" || name != ".." && strings.HasPrefix(name, ".") {
				return filepath.SkipDir
			}
		case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
			text, err := os.ReadFile(path)
			code.Write(text)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	typ := reflect.TypeFor[Target]()
	for i := range attributes {
		a := &attributes[i]
		if a.use != forBuild && a.use != forWatch || a.name == "description" {
			continue // a description is for 'list'
		}
		field := targetField[a.name]
		if _, ok := typ.FieldByName(field); !ok {
			t.Errorf("%s is for the build, and Target has no field for it: say here which it is", a.name)
			continue
		}
		if !regexp.MustCompile(`\.` + field + `\b`).MatchString(code.String()) {
			t.Errorf("%s is decoded into Target.%s, and nobody reads that", a.name, field)
		}
	}
}

// TestEveryAttributeIsDocumented keeps the reference complete.
func TestEveryAttributeIsDocumented(t *testing.T) {
	for i := range attributes {
		a := &attributes[i]
		if doc, ok := about[a.name]; !ok || doc.text == "" || doc.example == "" && formNamed(a.name) == nil {
			t.Errorf("the reference does not say what %s is for, with an example", a.name)
		}
	}
	if len(about) != len(attributes) {
		t.Errorf("the reference has %d attributes, the table has %d", len(about), len(attributes))
	}
}
