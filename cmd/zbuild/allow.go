package main

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/session"
)

// grants asks on a terminal whether to allow what a generation was refused, as bake
// does. It is asked only if there is nothing else wrong, and nobody is asked who
// has something else to say on standard input. If the answer is yes the options
// allow it. The error says that the answer was to interrupt.
func (a *app) grants(ctx context.Context, g *session.Generation, opt *session.Options) (bool, error) {
	_, asking := terminal(a.stdin)
	allow, others := config.Refusals(g.Diagnostics)
	if !asking || len(allow) == 0 || others || a.jsonDiagnostics || slices.Contains(opt.Load.Files, "-") {
		return false, nil
	}
	fmt.Fprint(a.stderr, "Allow this, and go on? [y/N] ")
	answers := make(chan string, 1)
	go func() { // a read cannot be stopped; it ends with the process
		line, _ := bufio.NewReader(a.stdin).ReadString('\n')
		answers <- line
	}()
	select {
	case <-ctx.Done():
		return false, context.Cause(ctx)
	case answer := <-answers:
		if !strings.EqualFold(strings.TrimSpace(answer), "y") {
			return false, nil
		}
	}
	opt.Load.Allow = append(opt.Load.Allow, allow...)
	return true, nil
}

// allowFlags are the flags that allow what was refused.
func allowFlags(allow []string) string {
	var flags []string
	for _, value := range allow {
		if strings.ContainsAny(value, " '\"$*?\\") {
			value = "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
		}
		flags = append(flags, "--allow="+value)
	}
	return strings.Join(flags, " ")
}
