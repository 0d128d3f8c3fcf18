// Package storecheck looks for damage and for what should not be left in a
// containers-storage. It is for tests.
package storecheck

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.podman.io/storage"
)

// Problems lists what is wrong with a store, and the containers and mounts that
// are in it.
func Problems(store storage.Store) (problems []string, err error) {
	containers, err := store.Containers()
	if err != nil {
		return nil, err
	}
	for _, c := range containers {
		problems = append(problems, fmt.Sprintf("container %s %v was left", c.ID, c.Names))
	}
	layers, err := store.Layers()
	if err != nil {
		return nil, err
	}
	for _, l := range layers {
		if n, err := store.Mounted(l.ID); err != nil || n > 0 {
			problems = append(problems, fmt.Sprintf("layer %s is mounted %d times (%v)", l.ID, n, err))
		}
		if l.Flags["incomplete"] != nil {
			problems = append(problems, fmt.Sprintf("layer %s is incomplete", l.ID))
		}
	}
	// Step layers, which no image refers to, are zbuild's cache: not of interest
	// here however old they are.
	ever := 100 * 365 * 24 * time.Hour
	check := storage.CheckEverything()
	check.LayerUnreferencedMaximumAge = &ever
	report, err := store.Check(check)
	if err != nil {
		return problems, err
	}
	for kind, damaged := range map[string]map[string][]error{"layer": report.Layers, "image": report.Images, "container": report.Containers} {
		for id, errs := range damaged {
			problems = append(problems, fmt.Sprintf("%s %s: %v", kind, id, errors.Join(errs...)))
		}
	}
	slices.Sort(problems)
	return problems, nil
}
