package main

import "testing"

func TestJobsFlag(t *testing.T) {
	for text, want := range map[string]jobsFlag{
		"":                        {},
		"3":                       {Steps: 3},
		"0":                       {},
		"fail-fast":               {},
		"defer-output,parallel=2": {Steps: 2},
		"defer-error":             {KeepGoing: true},
		"mode=defer-error":        {KeepGoing: true},
		"parallel=4, defer-error": {Steps: 4, KeepGoing: true},
	} {
		var got jobsFlag
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"-1", "many", "parallel=x", "parallel=-2", "2,3", "parallel=1,parallel=2", "fail-fast,defer-error", "speed=3", ","} {
		var got jobsFlag
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: %+v, and no error", text, got)
		}
	}
}
