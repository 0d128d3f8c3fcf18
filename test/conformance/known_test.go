package conformance_test

const attributesAreKept = "buildkit writes no extended attribute into a layer but security.capability; zbuild keeps what COPY, ADD and RUN made, as buildah does"

// knownDifferences are the cases in which zbuild differs from buildkitd on purpose,
// or cannot do otherwise.
var knownDifferences = map[string]struct {
	what   string // a regular expression that every difference matches
	reason string
}{
	"add-tar-xattrs": {`xattrs: zbuild map\["user\.color":"red"\], buildkit map\[\]$`, attributesAreKept},
	"copy-xattrs":    {`xattrs: zbuild map\["user\.color":"blue"\], buildkit map\[\]$`, attributesAreKept},
}
