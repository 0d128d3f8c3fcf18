package main

import (
	"fmt"
	"strconv"
	"strings"
)

// jobsFlag is --jobs: how many steps may run at once, and as with bake what a
// failure does to the rest.
type jobsFlag struct {
	// Steps is 0 for the default.
	Steps int
	// KeepGoing goes on after a failure.
	KeepGoing bool
}

// UnmarshalText is encoding.TextUnmarshaler: "N" or "MODE[,parallel=N]".
func (f *jobsFlag) UnmarshalText(text []byte) error {
	const want = "want a number of steps, or fail-fast, defer-output or defer-error, with ,parallel=N"
	*f = jobsFlag{}
	value := strings.TrimSpace(string(text))
	if value == "" {
		return nil
	}
	if _, err := strconv.Atoi(value); err == nil {
		value = "parallel=" + value
	}
	seen := make(map[string]bool)
	for field := range strings.SplitSeq(value, ",") {
		key, val, ok := strings.Cut(strings.Trim(strings.TrimSpace(field), `"`), "=")
		if !ok {
			key, val = "mode", key
		}
		key, val = strings.ToLower(strings.TrimSpace(key)), strings.TrimSpace(val)
		if seen[key] {
			return fmt.Errorf("%s is there twice; %s", key, want)
		}
		seen[key] = true
		switch key {
		case "mode":
			switch val {
			case "fail-fast", "defer-output": // nothing leaves before all have succeeded, in either
			case "defer-error":
				f.KeepGoing = true
			default:
				return fmt.Errorf("there is no mode %q; %s", val, want)
			}
		case "parallel":
			n, err := strconv.Atoi(val)
			if err != nil || n < 0 {
				return fmt.Errorf("%q is no number of steps; %s", val, want)
			}
			f.Steps = n
		default:
			return fmt.Errorf("%q is unknown; %s", key, want)
		}
	}
	return nil
}
