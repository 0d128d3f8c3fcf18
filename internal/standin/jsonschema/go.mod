module github.com/santhosh-tekuri/jsonschema/v6

go 1.26.0

require (
	github.com/google/jsonschema-go v0.4.3
	golang.org/x/text v0.40.0
)

require github.com/compose-spec/compose-go/v2 v2.16.1
