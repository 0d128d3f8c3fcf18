package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/zbuild/zbuild/config"
)

// pullFlag is --pull: a bool, as with bake, or the name of a policy, as with podman.
// Empty if the flag was not given.
type pullFlag string

// IsBool says that the flag may stand without a value.
func (pullFlag) IsBool() bool { return true }

// Decode is part of kong's protocol.
func (f *pullFlag) Decode(ctx *kong.DecodeContext) error {
	text := optionalValue(ctx)
	policies := []string{
		string(config.PullMissing), string(config.PullNewer), string(config.PullAlways), string(config.PullNever),
	}
	if slices.Contains(policies, text) {
		*f = pullFlag(text)
		return nil
	}
	on, err := strconv.ParseBool(text)
	if err != nil {
		return fmt.Errorf("want true or false, or one of %s, not %q", strings.Join(policies, ", "), text)
	}
	*f = pullFlag(strconv.FormatBool(on))
	return nil
}

// optionalValue is the value of a flag that may stand without one; then it is true.
func optionalValue(ctx *kong.DecodeContext) string {
	if ctx.Scan.Peek().Type != kong.FlagValueToken {
		return "true"
	}
	return fmt.Sprint(ctx.Scan.Pop().Value)
}
