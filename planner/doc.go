// Package planner turns a config.Project and the Dockerfiles that it names into
// a Plan: one graph of steps over all targets and platforms, in which the same
// work stands once.
//
// The Dockerfile language is BuildKit's own frontend, run in this process; what
// it emits (LLB) is made canonical here. Planning reads files and image
// metadata through what the caller hands in. It never runs a step, never writes,
// and gives the same plan for the same inputs.
//
// A plan is made in three moves:
//
//   - Convert. Each target is a unit, each of its platforms a run. A run hands
//     the frontend a gateway (options, files, images, the results of other
//     targets) and gets LLB and an image configuration back. dockerfile2llb is
//     called directly and not through BuildKit's builder, which would convert in
//     goroutines of its own, where a panic could not be caught.
//   - Make canonical. The passes rewrite every operation, inputs first, so that
//     its digest depends on nothing but the work: see passes.go. What came from
//     another target is canonical already and stays as it is.
//   - Assemble. In the order of the targets' names, vertices of the same digest
//     become one Step; what targets say about it (retries, secrets, no-cache) is
//     merged; steps are grouped into Stages by where they stand in Dockerfiles.
//
// The first two moves run for several targets at once, the last one does not:
// what it sees does not depend on who was first.
package planner
