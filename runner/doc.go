// Package runner executes a planner.Plan: it schedules steps, finds those whose
// result is cached, has an Engine do the others, and makes, names and pushes the
// images.
//
// It knows no Dockerfile and no build file, and never touches a container or a
// store itself: that is an Engine's work.
package runner
