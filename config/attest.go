package config

import (
	"maps"
	"strconv"
	"strings"

	"github.com/distribution/reference"
)

// attests are the attestations that are asked for.
func (r *resolver) attests(t *wireTarget) []Attest {
	var out []Attest
	for i, a := range t.Attest {
		if a.Disabled {
			continue
		}
		at := t.whereIndex("attest", i, len(t.Attest))
		invalid := func(detail string) {
			if !r.req.EvaluateOnly {
				r.errorf(at, "Invalid attest", "The attestation %s of target %s: %s.", a, t.Name, detail)
			}
		}
		switch a.Type {
		case "provenance":
			checkProvenance(a.Attrs, invalid)
		case "sbom":
			checkSBOM(a.Attrs, invalid)
		default:
			invalid("there are provenance and sbom" + didYouMean(a.Type, []string{"provenance", "sbom"}))
			continue
		}
		out = append(out, Attest{Type: a.Type, Attrs: maps.Clone(a.Attrs)})
	}
	return out
}

// checkSBOM checks which image makes the SBOM. Other attributes are for that image.
func checkSBOM(attrs map[string]string, invalid func(string)) {
	if ref, ok := attrs["generator"]; ok {
		if _, err := reference.ParseNormalizedNamed(ref); err != nil {
			invalid("the generator is the name of an image")
		}
	}
}

// checkProvenance checks the attributes that BuildKit's provenance has.
func checkProvenance(attrs map[string]string, invalid func(string)) {
	switch attrs["mode"] {
	case "", "min", "max", "full":
	default:
		invalid("the mode is min or max")
	}
	switch attrs["version"] {
	case "", "v1", "v0.2":
	default:
		invalid("the version is v1 or v0.2")
	}
	for _, key := range []string{"reproducible", "inline-only"} {
		if value := strings.TrimSpace(attrs[key]); value != "" {
			if _, err := strconv.ParseBool(value); err != nil {
				invalid(key + " is true or false")
			}
		}
	}
}
