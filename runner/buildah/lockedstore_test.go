//go:build linux

package buildah

import (
	"errors"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"go.podman.io/storage"
)

// TestStoreCannotBeLocked has something else be where the store's locks are, while the
// store is open. That is told, and nothing is done after it.
func TestStoreCannotBeLocked(t *testing.T) {
	dir := t.TempDir()
	told := make(chan error, 1)
	e, err := Open(t.Context(), Options{
		Root: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run"), Driver: "vfs",
		Fatal: func(err error) {
			told <- err
			runtime.Goexit() // as the end of a process would
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, ".lock") || d.IsDir() {
			return err
		}
		return errors.Join(os.Remove(name), os.Mkdir(name, 0o700))
	})
	if err != nil {
		t.Fatal(err)
	}
	went := make(chan struct{})
	after := false
	go func() {
		defer close(went)
		e.Has(t.Context(), "whatever")
		after = true
	}()
	<-went
	select {
	case err := <-told:
		var unusable *UnusableError
		if !errors.As(err, &unusable) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "the next start cleans up") {
			t.Errorf("told was %v", err)
		}
	default:
		t.Error("nothing was told")
	}
	if after {
		t.Error("it went on")
	}
}

// TestStoreIsGuarded looks for methods of the store that somebody calls and that are not
// guarded: in this package, and in those of the libraries that it hands the store to.
func TestStoreIsGuarded(t *testing.T) {
	// What was said when the store was opened, and what gives an error as others do.
	harmless := []string{"RunRoot", "GraphRoot", "GraphDriverName", "GraphOptions", "GetDigestLock"}
	guarded, calls := make(map[string]bool), make(map[string]string)
	for _, path := range []string{".", "go.podman.io/image/v5/storage", "go.podman.io/common/libimage/manifests"} {
		pkg, err := build.Import(path, ".", 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range pkg.GoFiles {
			files := token.NewFileSet()
			file, err := parser.ParseFile(files, filepath.Join(pkg.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			if path == "." && name == "lockedstore.go" {
				for _, d := range file.Decls {
					if f, ok := d.(*ast.FuncDecl); ok && f.Recv != nil {
						guarded[f.Name.Name] = true
					}
				}
				continue
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if method := storeMethod(n); method != "" {
					calls[method] = files.Position(n.Pos()).String()
				}
				return true
			})
		}
	}
	if len(calls) < len(harmless) {
		t.Fatalf("only %v are called: the test looks in the wrong places", calls)
	}
	for _, method := range slices.Sorted(maps.Keys(calls)) {
		if !guarded[method] && !slices.Contains(harmless, method) {
			t.Errorf("%s: %s is called, and lockedStore does not guard it", calls[method], method)
		}
	}
	for method := range guarded {
		if _, ok := calls[method]; !ok && method != "ended" {
			t.Errorf("lockedStore guards %s, which nobody calls", method)
		}
	}
}

// storeMethod is the method that a node names of something that is called a store; empty
// if it names none.
func storeMethod(n ast.Node) string {
	method, ok := n.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	var of string
	switch x := method.X.(type) {
	case *ast.Ident:
		of = x.Name
	case *ast.SelectorExpr:
		of = x.Sel.Name
	}
	if _, ok := reflect.TypeFor[storage.Store]().MethodByName(method.Sel.Name); !ok || !strings.EqualFold(of, "store") {
		return ""
	}
	return method.Sel.Name
}
