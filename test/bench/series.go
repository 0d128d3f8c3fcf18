package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// A series shows how cost grows with one size.
type series struct {
	Name string
	// Title and Unit name the size: "targets", "files in the context".
	Title, Unit string
	Points      []point
}

type point struct {
	Size    int
	section // by value: encoding/json cannot fill in a pointer to what is not exported
}

// plan is what a series is measured by.
type plan struct {
	name, title, unit string
	sizes             []int
	workload          func(size int) *workload
	// fill, if there is one, are projects whose images the store has already.
	fill func(size int) []*workload
}

func plans() []plan {
	return []plan{
		{name: "targets", title: "Targets of a project", unit: "targets", sizes: []int{1, 10, 100, 1000}, workload: manyTargets},
		{name: "context", title: "Files of a build context", unit: "files", sizes: []int{1000, 10_000, 50_000, 200_000}, workload: context200},
		{name: "layer", title: "Size of a layer", unit: "MB", sizes: []int{1, 16, 256, 2048}, workload: fatLayer},
		{
			name: "store", title: "Layers of other images in the store", unit: "layers", sizes: []int{10, 100, 1000, 5000},
			workload: func(int) *workload { return w3() }, fill: strangers,
		},
	}
}

// context200 counts the ignored half as well: the walk meets it.
func context200(files int) *workload { return contextOf(files / 2) }

func (b *bench) series(ctx context.Context, p plan) (*series, error) {
	s := &series{Name: p.name, Title: p.title, Unit: p.unit}
	// A tool that was too slow for one size is not asked for the next.
	left := map[string]string{}
	for _, size := range p.sizes {
		var before func(context.Context, tool) error
		if p.fill != nil {
			before = func(ctx context.Context, t tool) error { return b.fill(ctx, t, fmt.Sprint(size), p.fill(size)) }
		}
		w := p.workload(size)
		w.name = fmt.Sprintf("%s-%d", p.name, size)
		sec, err := b.measure(ctx, w, left, before)
		if err != nil {
			return nil, err
		}
		s.Points = append(s.Points, point{Size: size, section: *sec})
	}
	return s, nil
}

// fill gives a tool the images of projects, which together have a name.
func (b *bench) fill(ctx context.Context, t tool, name string, projects []*workload) (err error) {
	bounded, cancel := context.WithTimeoutCause(ctx, 10*b.budget, errBudget)
	defer cancel()
	var dirs []string
	defer func() {
		for _, dir := range dirs {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	for _, w := range projects {
		dir := filepath.Join(b.dir, w.name)
		dirs = append(dirs, dir)
		if err := w.write(dir, b.registry); err != nil {
			return err
		}
	}
	return t.fill(bounded, name, dirs)
}
