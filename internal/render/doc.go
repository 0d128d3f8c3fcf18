// Package render turns what happens in a build, and what came of it, into text
// for a person (or, with progress mode rawjson, for a program): progress,
// diagnostics with their source, the failure summary and the success summary.
//
// It writes to the writers that it is given and to nothing else. It decides
// nothing: whether a build failed, and what the process makes of that, is known
// elsewhere.
package render
