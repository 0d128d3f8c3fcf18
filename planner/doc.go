// Package planner turns a config.Project and the Dockerfiles that it names into
// a Plan: one graph of steps over all targets and platforms, in which the same
// work stands once.
//
// The Dockerfile language is BuildKit's own frontend, run in this process; what
// it emits (LLB) is made canonical here. Planning reads files and image
// metadata through what the caller hands in. It never runs a step, never writes,
// and gives the same plan for the same inputs.
package planner
