package main

import (
	"fmt"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the test binary be the programs that scripts run, and whatever
// the engine starts itself again for.
func TestMain(m *testing.M) {
	if initReexec() {
		return
	}
	programs := map[string]func(){
		"zbuild":      func() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
		"store-check": storeCheck,
	}
	all := make(map[string]func(), 2*len(programs))
	for name, program := range programs {
		all[name] = program
		// What an ordinary user's process is called in its user namespace.
		all[name+"-in-a-user-namespace"] = program
	}
	testscript.Main(m, all)
}

// TestScript runs the scripts of testdata/script. Those named e2e- build.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		Setup:               e2eSetup,
		Cmds:                e2eCommands(),
		Condition:           condition,
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// condition is what scripts may ask for in brackets: root.
func condition(name string) (bool, error) {
	if name == "root" {
		return os.Geteuid() == 0, nil
	}
	return false, fmt.Errorf("unknown condition %q", name)
}
