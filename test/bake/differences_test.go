package bake

// differences are where zbuild does something else than bake on purpose, by the
// name that a case has for it.
var differences = map[string]string{
	"secret-file":     "bake --print opens the files of secrets and fails if one is missing; what a build needs is checked when it builds",
	"ssh-agent":       "bake --print looks for the agent and opens keys; printing needs neither",
	"byte-order-mark": "bake refuses JSON that begins with one",
	"bool-key":        "bake's documentation has --set foo.no-cache without a value, but bake refuses it; zbuild takes it for true",
}
