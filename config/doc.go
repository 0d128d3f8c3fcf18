// Package config turns build files (zbuild.hcl, docker-bake.hcl and their JSON
// forms) into a Project: evaluated, immutable intent. It knows the language of
// bake and what zbuild adds to it.
//
// # Which files
//
// Those that the request names; else those that BUILDX_BAKE_FILE names; else
// zbuild.hcl, zbuild.json, zbuild.override.hcl and zbuild.override.json of the
// working directory, or of the closest parent that has one, up to the root of
// the repository; else bake's own of the working directory. A file that is
// called zbuild.* or *.zbuild.hcl is in zbuild's dialect: it may use what zbuild
// adds, what it says must be known, and its paths start from where it is. Every
// other file means what it means to bake.
//
// # How
//
// Files are read, checked against the table of attributes (schema.go), gathered
// into one body, evaluated by the rules of buildx's hclparser into wireTarget (what
// is written), merged by the rules of the table with what is inherited and what
// --set says (resolve.go), and made into Target (what is meant, target.go). What
// goes wrong is collected, not returned at once, and diagnose.go makes sense of it.
// What evaluation makes is paid for (meter.go): no file takes all memory or time.
//
// The package never reads a Dockerfile, never looks at an image and never starts
// anything; files, environment and working directory come from the caller. It
// never reads the value of a secret.
package config
