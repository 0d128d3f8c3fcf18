package bake

// differences are where zbuild does something else than bake on purpose, by the
// name that a case has for it.
var differences = map[string]string{
	"secret-file":      "bake --print opens the files of secrets and fails if one is missing; what a build needs is checked when it builds",
	"ssh-agent":        "bake --print looks for the agent and opens keys; printing needs neither",
	"byte-order-mark":  "bake refuses JSON that begins with one",
	"path-to-be":       "for a path that does not exist yet bake wants its parent to be allowed, and lets no --allow name the path; --set is allowance only for what exists",
	"archive":          "buildx 0.38 fails on every archive, of an internal error",
	"files-env-remote": "bake looks for the files of BUILDX_BAKE_FILE here, even if they are to be read from elsewhere",
	"bool-key":         "bake's documentation has --set foo.no-cache without a value, but bake refuses it; zbuild takes it for true",
}
