// Package config turns build files (zbuild.hcl, docker-bake.hcl and their JSON
// forms) into a Project: evaluated, immutable intent. It knows the language of
// bake and what zbuild adds to it.
//
// It never reads a Dockerfile, never looks at an image and never starts
// anything; files, environment and working directory come from the caller.
package config
