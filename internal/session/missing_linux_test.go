package session_test

import (
	"os"
	"testing"
)

// TestMissingContext watches a project without one of the directories that it is
// built of, from the start and after a change of the build file.
func TestMissingContext(t *testing.T) {
	t.Run("from the start", func(t *testing.T) {
		w := complain(t, "", map[string]string{"a.Dockerfile": "FROM scratch\nCOPY f /\n", "f": "0"}, "a", "m")
		w.write("zbuild.override.hcl", "target \"m\" {\n  context = \"missing/yet\"\n  dockerfile-inline = \"FROM scratch\\nCOPY f /\"\n}\n")
		w.start()
		w.builds(func() { w.save("missing/yet/f", "1") }, "a", "m", "sentinel")
		w.has("m", "/f", "1")
	})
	t.Run("after a change", func(t *testing.T) {
		w := complain(t, "", map[string]string{
			"a.Dockerfile": "FROM scratch\nCOPY f /\n", "b.Dockerfile": "FROM scratch\nCOPY f /\n", "f": "0",
		}, "a", "b")
		w.start()
		// Neither the context nor the other's Dockerfile are there before the former is.
		w.forget()
		w.save("zbuild.override.hcl", "target \"a\" { contexts = { more = \"later\" } }\n")
		w.save("src/b.Dockerfile", "FROM scratch\nCOPY f /g\n")
		w.quiet()
		w.save("src/f", "1")
		w.quiet()
		w.does(func() { w.check(os.Mkdir(w.path("later"), 0o755)) })
		w.has("b", "/g", "1")
		w.builds(func() { w.save("src/f", "2") }, "a", "b")
		w.has("b", "/g", "2")
	})
	t.Run("gone and back", func(t *testing.T) {
		w := complain(t, "target \"a\" { contexts = { more = \"more\" } }\n", map[string]string{"a.Dockerfile": "FROM scratch\nCOPY --from=more . /\n"}, "a")
		w.write("more/f", "0")
		w.start()
		w.builds(func() { w.check(os.RemoveAll(w.path("more"))) }, "a")
		w.builds(func() { w.save("more/f", "1") }, "a")
		w.has("a", "/f", "1")
		w.builds(func() { w.save("more/g", "2") }, "a")
		w.has("a", "/g", "2")
	})
}
