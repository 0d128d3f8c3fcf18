package conformance_test

// knownDifferences are the cases in which zbuild differs from buildkitd on purpose,
// or cannot do otherwise.
var knownDifferences = map[string]struct {
	what   string // a regular expression that every difference matches
	reason string
}{}
